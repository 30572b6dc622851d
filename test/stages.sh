#!/usr/bin/env bash
# Runs the stages of `make test` one after another, each with its own log heading and time, goes on after a failed
# stage (one run should tell everything that is wrong), and ends with what the failed tests printed and a summary, so that
# nobody has to look through the whole log. Stages may be named as arguments.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stages=("$@")
((${#stages[@]})) || stages=(test-unit test-cyclonus testbed-build verify test-netns test-apiserver test-testbed test-upstream-dozen test-e2e)

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

# failures picks what each failed test has printed out of a stage's log: the last lines before its verdict, where go test
# puts them with -v, and those behind it, where it puts them without. A package or a stage that failed in another way has
# its last lines.
failures() {
  awk -v most=60 '
    function put(line) { print substr(line, 1, 400); told = any = 1 }
    function last(  i) { for (i = n > most ? n - most : 0; i < n; i++) put(before[i]); n = 0 }
    /^=== RUN +[^\/]+$/ || /^--- (PASS|SKIP)/ { n = behind = 0 }
    /^ok[ \t]/ { n = behind = told = 0; next }
    /^FAIL$/ { behind = 0; next }
    /^FAIL[ \t]/ { if (!told) { last(); put($0) } n = behind = told = 0; next }
    /^ *--- FAIL/ { last(); behind = most; put($0); next }
    behind > 0 && /^ / { behind--; put($0); next }
    { before[n++] = $0 }
    END { if (!any) last() }' "$1"
}

summary=()
failed=0
begin=$SECONDS
for stage in "${stages[@]}"; do
  printf '\n==== %s (at %d:%02d)\n' "$stage" $(((SECONDS - begin) / 60)) $(((SECONDS - begin) % 60))
  start=$SECONDS
  if make --no-print-directory "$stage" ARGS= 2>&1 | tee "$logs/$stage"; then
    result=ok
    rm "$logs/$stage"
  else
    result=FAILED
    failed=1
  fi
  took=$((SECONDS - start))
  summary+=("$(printf '%-20s %-7s %3d:%02d' "$stage" "$result" $((took / 60)) $((took % 60)))")
  # Everything behind the build needs its binaries.
  if [[ $stage == testbed-build && $result == FAILED ]]; then
    summary+=("the remaining stages were not run: they need the testbed's binaries")
    break
  fi
done

# The suites behind test-testbed share one cluster, and none of them ends it; that one has its own, and takes away what is there.
printf '\n==== cluster-down\n'
make --no-print-directory cluster-down ARGS= || failed=1

for stage in "${stages[@]}"; do
  [[ -f $logs/$stage ]] || continue
  printf '\n==== what failed in %s\n' "$stage"
  failures "$logs/$stage"
done

printf '\n==== summary (minutes:seconds)\n'
printf '%s\n' "${summary[@]}"
printf '%-20s %-7s %3d:%02d\n' total "$([[ $failed == 0 ]] && echo ok || echo FAILED)" $(((SECONDS - begin) / 60)) $(((SECONDS - begin) % 60))
exit "$failed"
