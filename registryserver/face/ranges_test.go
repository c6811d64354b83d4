package face_test

import (
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/face"
)

func FuzzParseRange(f *testing.F) {
	for _, seed := range []string{"", "bytes=0-0", "bytes=-5", "bytes=5-", "bytes=5-3", "bytes=0-1,2-3", "bytes=99999999999999999999-", "x=1"} {
		f.Add(seed, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 0 {
			return
		}
		part, err := face.ParseRange(header, size)
		if err == nil && part != nil && (part.Offset < 0 || part.Length < 1 || part.Offset > size-part.Length) {
			t.Errorf("%q of %d bytes is %+v", header, size, *part)
		}
	})
}
