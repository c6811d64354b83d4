package ociapi

import (
	"net/http"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

// parseRange reads a Range header (RFC 9110 section 14.2) for content of size bytes. The result is nil when the whole
// content is to be sent: no header, another unit, or more than one range, which servers may ignore. Length of the
// result is what there is, never more. The error is a 416.
func parseRange(header string, size int64) (*bucket.Range, error) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	if !ok || strings.Contains(spec, ",") {
		return nil, nil
	}
	unsatisfiable := &apiError{http.StatusRequestedRangeNotSatisfiable, "SIZE_INVALID", "the range asked for is not within the content"}
	first, last, found := strings.Cut(strings.TrimSpace(spec), "-")
	if !found {
		return nil, unsatisfiable
	}
	if first == "" {
		length, err := parseOffset(last)
		if err != nil || length == 0 || size == 0 {
			return nil, unsatisfiable
		}
		length = min(length, size)
		return &bucket.Range{Offset: size - length, Length: length}, nil
	}
	start, err := parseOffset(first)
	if err != nil || start >= size {
		return nil, unsatisfiable
	}
	end := size - 1
	if last != "" {
		if end, err = parseOffset(last); err != nil || end < start {
			return nil, unsatisfiable
		}
		end = min(end, size-1)
	}
	return &bucket.Range{Offset: start, Length: end - start + 1}, nil
}
