package access

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxPatternBytes bounds a chart glob; no chart's path is longer.
const maxPatternBytes = 256

// Match reports whether name, a chart's path below the registry, is matched by the glob pattern: "*" is any run of
// characters, "/" included, "?" any one; all else is itself. Anchored and case-sensitive; linear in practice and
// bounded by len(pattern)*len(name).
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

// ValidatePattern says what is wrong with a chart glob: empty, over 256 bytes, or a character no chart path can have.
func ValidatePattern(pattern string) error {
	switch {
	case pattern == "":
		return errors.New(`a chart glob must not be empty; "*" is every chart`)
	case len(pattern) > maxPatternBytes:
		return fmt.Errorf("a chart glob has at most %d bytes, this one has %d", maxPatternBytes, len(pattern))
	}
	for _, c := range pattern {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789._-/*?", c) {
			return fmt.Errorf("the chart glob %q has the character %q, which no chart path can have: it is made of a-z, 0-9, '.', '_', '-' and '/', and in globs of '*' and '?'", pattern, c)
		}
	}
	return nil
}
