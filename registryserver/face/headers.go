package face

import (
	"net/http"
	"strconv"
	"strings"
)

// AcceptsGzip reads Accept-Encoding (RFC 9110 section 12.5.3).
func AcceptsGzip(h http.Header) bool {
	accepted := false
	for element := range strings.SplitSeq(strings.Join(h.Values("Accept-Encoding"), ","), ",") {
		coding, parameters, _ := strings.Cut(element, ";")
		coding = strings.ToLower(strings.TrimSpace(coding))
		if coding != "gzip" && coding != "*" {
			continue
		}
		weight := 1.0
		if name, value, found := strings.Cut(parameters, "="); found && strings.EqualFold(strings.TrimSpace(name), "q") {
			var err error
			if weight, err = strconv.ParseFloat(strings.TrimSpace(value), 64); err != nil {
				weight = 0
			}
		}
		accepted = weight > 0
		if coding == "gzip" {
			return accepted // It is more specific than any "*".
		}
	}
	return accepted
}

// Unchanged reads If-None-Match (RFC 9110 section 13.1.2): it reports whether the client has what etag validates.
func Unchanged(h http.Header, etag string) bool {
	for element := range strings.SplitSeq(strings.Join(h.Values("If-None-Match"), ","), ",") {
		element = strings.TrimSpace(element)
		if element == "*" || strings.TrimPrefix(element, "W/") == etag {
			return true
		}
	}
	return false
}
