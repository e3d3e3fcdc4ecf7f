#!/bin/sh
# compile_headers.sh COMPILER STANDARD ABI_INCLUDE CORE_INCLUDE
# Compiles every public header on its own, all warnings being errors, padding without a name too.
# A header that needs another one to come first, or an extension, fails here.
set -u
compiler=$1 standard=$2 abi=$3 core=$4
case $standard in
c++*) language=c++ special="" ;;
*) language=c special="-Wstrict-prototypes -Wc++-compat" ;;
esac
failed=0 count=0
for header in "$abi"/winnow/*.h "$core"/winnow/*.h; do
    count=$((count + 1))
    # shellcheck disable=SC2086
    if ! echo "extern int nothing_else;" | "$compiler" "-std=$standard" -Wall -Wextra -Wpedantic \
        -Wpadded -Wshadow -Wundef $special -Werror -I "$abi" -I "$core" -fsyntax-only \
        -include "$header" -x "$language" -; then
        echo "FAILED: $header as $standard" >&2
        failed=1
    fi
done
echo "$count headers as $standard"
[ "$count" -gt 10 ] && [ "$failed" -eq 0 ]
