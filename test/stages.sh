#!/usr/bin/env bash
# Runs the stages of `make test` one after another, each with its own log heading and time, goes on after a failed
# stage (one run should tell everything that is wrong), and ends with a summary. Stages may be named as arguments.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stages=("$@")
((${#stages[@]})) || stages=(test-unit test-cyclonus testbed-build verify test-netns test-apiserver test-testbed test-upstream-dozen test-e2e)

summary=()
failed=0
begin=$SECONDS
for stage in "${stages[@]}"; do
  printf '\n==== %s (at %d:%02d)\n' "$stage" $(((SECONDS - begin) / 60)) $(((SECONDS - begin) % 60))
  start=$SECONDS
  if make --no-print-directory "$stage" ARGS=; then result=ok; else
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

printf '\n==== summary (minutes:seconds)\n'
printf '%s\n' "${summary[@]}"
printf '%-20s %-7s %3d:%02d\n' total "$([[ $failed == 0 ]] && echo ok || echo FAILED)" $(((SECONDS - begin) / 60)) $(((SECONDS - begin) % 60))
exit "$failed"
