package pulls

import (
	"bytes"
)

// RewriteBook reads the object of a part or of the sum, and writes it again.
func RewriteBook(content []byte) (again []byte, err error) {
	b, err := decodeBook(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = b.encode(&out)
	return out.Bytes(), err
}

// Bounded puts archives of such days into a book of at most so many, and returns how many are left of each day.
func Bounded(days []int) map[int]int {
	c := counts{}
	for i, d := range days {
		c.add("web", hash{byte(i), byte(i >> 8), byte(i >> 16)}, tally{1, day(d)})
	}
	c.bound()
	left := map[int]int{}
	for _, t := range c["web"] {
		left[int(t.last)]++
	}
	return left
}

// MaxArchives bounds a book.
const MaxArchives = maxArchives
