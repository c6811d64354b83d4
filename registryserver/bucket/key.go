package bucket

import (
	"fmt"
	"strings"
)

const (
	maxKeyBytes     = 1024
	maxSegmentBytes = 255
)

// CheckKey returns ErrKey, with the reason, for a key that is not of the form that the package comment gives.
func CheckKey(key string) error {
	if len(key) > maxKeyBytes {
		return fmt.Errorf("%w: %.40q… is longer than %d bytes", ErrKey, key, maxKeyBytes)
	}
	for segment := range strings.SplitSeq(key, "/") {
		if !validSegment(segment) {
			return fmt.Errorf("%w: %q", ErrKey, key)
		}
	}
	return nil
}

func validSegment(segment string) bool {
	if segment == "" || segment == "." || segment == ".." || len(segment) > maxSegmentBytes {
		return false
	}
	for i := range len(segment) {
		c := segment[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("._-+%", c) >= 0:
		default:
			return false
		}
	}
	return true
}
