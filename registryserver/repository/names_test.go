package repository

import (
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// The patterns of the OCI Distribution Specification, "Pulling manifests", which the code spells out.
var (
	nameForm = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagForm  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

func FuzzGrammars(f *testing.F) {
	for _, seed := range []string{
		"", "a", "a/b", "a//b", "/a", "a/", "a.b", "a..b", "a._b", "a__b", "a___b", "a--b", "a---b9", "a-/b", "a/-b", "a-_b", "A", "é", "a\n",
		"-", ".", "a.", "__", "1.0.0-rc.1", ".a", strings.Repeat("t", 128), strings.Repeat("t", 129),
		"sha256:" + strings.Repeat("0a", 32), "sha256:" + strings.Repeat("0A", 32), "sha256:" + strings.Repeat("0", 63), "sha512:" + strings.Repeat("0", 128),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := isName(s), nameForm.MatchString(s); got != want {
			t.Errorf("isName(%q) is %t", s, got)
		}
		if got, want := isTag(s), tagForm.MatchString(s); got != want {
			t.Errorf("isTag(%q) is %t", s, got)
		}
		d := digest.Digest(s)
		valid := d.Validate() == nil && (d.Algorithm() == digest.SHA256 || d.Algorithm() == digest.SHA512)
		if got := checkDigest(d) == nil; got != valid {
			t.Errorf("checkDigest(%q) passes: %t", s, got)
		}
	})
}
