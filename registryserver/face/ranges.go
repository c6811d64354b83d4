package face

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

// ParseRange reads a Range header (RFC 9110 section 14.2) for content of size bytes. The result is nil when the whole
// content is to be sent: no header, another unit, or more than one range, which servers may ignore. Length of the
// result is what there is, never more. The error is a 416.
func ParseRange(header string, size int64) (*bucket.Range, error) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	if !ok || strings.Contains(spec, ",") {
		return nil, nil
	}
	unsatisfiable := &Error{http.StatusRequestedRangeNotSatisfiable, "SIZE_INVALID", "the range asked for is not within the content"}
	first, last, found := strings.Cut(strings.TrimSpace(spec), "-")
	if !found {
		return nil, unsatisfiable
	}
	if first == "" {
		length, err := ParseOffset(last)
		if err != nil || length == 0 || size == 0 {
			return nil, unsatisfiable
		}
		length = min(length, size)
		return &bucket.Range{Offset: size - length, Length: length}, nil
	}
	start, err := ParseOffset(first)
	if err != nil || start >= size {
		return nil, unsatisfiable
	}
	end := size - 1
	if last != "" {
		if end, err = ParseOffset(last); err != nil || end < start {
			return nil, unsatisfiable
		}
		end = min(end, size-1)
	}
	return &bucket.Range{Offset: start, Length: end - start + 1}, nil
}

// ParseOffset reads decimal digits alone; strconv would take a sign as well. What no int64 holds is the greatest.
func ParseOffset(s string) (int64, error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return math.MaxInt64, nil
	}
	return n, err
}
