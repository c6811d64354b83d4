package glob

import (
	"errors"
	"fmt"
	"strings"
)

// maxPatternBytes bounds a chart glob; no chart's path is longer.
const maxPatternBytes = 256

// ValidateChart says what is wrong with a chart glob: empty, over 256 bytes, or a character no chart path can have.
func ValidateChart(pattern string) error {
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
