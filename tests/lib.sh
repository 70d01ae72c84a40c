# lib.sh - how the shell tests report. Sourced, never run.
#
#   passed NAME | failed NAME [REASON] | skipped NAME REASON    one line for each case
#   summary                                                     the closing line; the exit status
#   need TARGETS FILE...        ends the script with status 2 and a message where a file is missing
#
# A case is named "SUITE: what must hold".

n_passed=0
n_failed=0
n_skipped=0

passed()
{
    echo "PASS $1"
    n_passed=$((n_passed + 1))
}

failed()
{
    echo "FAIL $1${2:+: $2}"
    n_failed=$((n_failed + 1))
}

skipped()
{
    echo "SKIP $1: $2"
    n_skipped=$((n_skipped + 1))
}

summary()
{
    line="$n_passed passed, $n_failed failed"
    [ "$n_skipped" = 0 ] || line="$line, $n_skipped skipped"
    echo "$line"
    [ "$n_failed" = 0 ] && [ "$n_passed" != 0 ]
}

# need TARGETS FILE...: the files are there, or the script ends and says which of make's targets make
# them.
need()
{
    targets=$1
    shift
    for file; do
        [ -s "$file" ] || {
            echo "$0: no $file; \`make $targets\` makes it" >&2
            exit 2
        }
    done
}
