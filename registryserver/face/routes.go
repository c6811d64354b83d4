package face

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Allow is the value of the Allow header (RFC 9110 section 10.2.1) for the methods that an address takes.
func Allow[A any](methods map[string]A) string {
	all := []string{http.MethodOptions}
	for m := range methods {
		all = append(all, m)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// NotAllowed answers a method that an address does not take: OPTIONS with what it takes, all others with an *Error.
func NotAllowed(w http.ResponseWriter, method, allow string) error {
	w.Header().Set("Allow", allow)
	if method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return &Error{http.StatusMethodNotAllowed, "UNSUPPORTED", "this address does not take " + Quote(method) + ", only " + allow}
}

// ErrPath is the answer to a path that no address has.
var ErrPath = &Error{http.StatusBadRequest, "NAME_INVALID", "the path has an empty element, \".\", \"..\" or a character that no name, version or digest has"}

// Split splits the path of an address behind a prefix into its elements. It refuses what other programs on the way may have
// read as another path. Error: ErrPath.
func Split(u *url.URL, prefix string) ([]string, error) {
	rest := strings.TrimPrefix(strings.TrimPrefix(u.Path, prefix), "/")
	// An encoded slash would decode into one that other programs did not see. Without one, and without anything else that
	// need not have been encoded, there is no raw path.
	if u.RawPath != "" && strings.Contains(strings.ToLower(u.RawPath), "%2f") || HasIllegal(rest) {
		return nil, ErrPath
	}
	if rest == "" {
		return nil, nil
	}
	elements := strings.Split(rest, "/")
	for _, e := range elements {
		if e == "" || e == "." || e == ".." {
			return nil, ErrPath
		}
	}
	return elements, nil
}

// HasIllegal reports characters that are in no name, tag, version, digest or upload.
func HasIllegal(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '-' <= c && c <= ':', 'A' <= c && c <= 'Z', c == '_', c == '+', c == '~':
		default:
			return true
		}
	}
	return false
}

// Quote makes what a client sent fit to be shown: bounded, and without control characters.
func Quote(s string) string {
	const limit = 128
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.ToValidUTF8(strconv.Quote(s), "?")
}
