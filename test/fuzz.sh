#!/bin/sh
# Runs every fuzz target of the module with FUZZTIME inputs each (30000x), or for
# so long (10m); go test takes only one target at a time. The default is a count
# because go test sometimes takes the end of the time for a failure of the target.
set -eu
for file in $(grep -rl --include='*_test.go' '^func Fuzz' . | sort); do
	dir=$(dirname "$file")
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		echo "fuzz $dir $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-30000x}" "$dir"
	done
done
