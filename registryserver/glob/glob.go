// Package glob matches names against globs, in a time that no glob can make long.
package glob

import (
	"strings"
	"unicode/utf8"
)

// Match reports whether name is matched by pattern: "*" is any run of characters, "/" included, "?" any one; all else is
// itself. Anchored and case-sensitive; linear in practice and bounded by len(pattern)*len(name).
func Match(pattern, name string) bool {
	p, n := 0, 0
	// Where to go on when a literal does not fit: behind the last star, which then takes one more character. Earlier
	// stars need no second look, as whatever they left is still there for the last one: no exponential search.
	star, taken := -1, 0
	for n < len(name) {
		_, size := utf8.DecodeRuneInString(name[n:])
		switch {
		case p < len(pattern) && pattern[p] == '*':
			p++
			star, taken = p, n
		case p < len(pattern) && pattern[p] == '?':
			p++
			n += size
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0:
			_, size := utf8.DecodeRuneInString(name[taken:])
			taken += size
			p, n = star, taken
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
