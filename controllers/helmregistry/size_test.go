package helmregistry

import (
	"math"
	"testing"
)

func TestSizesForPeople(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0B", 1023: "1023B", 1024: "1.0KiB", 1536: "1.5KiB", 1 << 20: "1.0MiB", 1<<20 - 1: "1.0MiB", 12_900_000: "12.3MiB",
		1 << 30: "1.0GiB", 1 << 50: "1.0PiB", math.MaxInt64: "8.0EiB",
	} {
		if got := size(bytes); got != want {
			t.Errorf("%d bytes are %s, want %s", bytes, got, want)
		}
	}
}
