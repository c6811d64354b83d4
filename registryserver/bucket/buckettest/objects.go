//nolint:thelper // These are the tests themselves: a failure is to name their own line.
package buckettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

func testRoundTrip(t *testing.T, b bucket.Bucket) {
	for name, content := range map[string]string{"empty": "", "small": "hello", "large": strings.Repeat("0123456789", 100_000)} {
		for _, size := range []int64{-1, int64(len(content))} {
			key := fmt.Sprintf("a/b/%s%d", name, size)
			written, err := b.Put(t.Context(), key, strings.NewReader(content), size, bucket.Condition{})
			if err != nil {
				t.Fatal(err)
			}
			wantContent(t, b, key, content)
			head, err := b.Head(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			if head.ETag == "" || head.ETag != written.ETag || head.Size != int64(len(content)) || written.Size != head.Size ||
				head.Key != key || written.Key != key || head.Modified.IsZero() {
				t.Fatalf("Put says %+v, Head says %+v", written, head)
			}
		}
	}
}

func testReplace(t *testing.T, b bucket.Bucket) {
	seen := map[string]bool{}
	for i := range 20 {
		info := mustPut(t, b, "k", fmt.Sprintf("%02d", i))
		if seen[info.ETag] {
			t.Fatal("a replaced object has an ETag that an earlier one had")
		}
		seen[info.ETag] = true
		read, err := b.Head(t.Context(), "k")
		if err != nil || read.ETag != info.ETag {
			t.Fatalf("Put says %+v, Head says %+v, %v", info, read, err)
		}
	}
	mustPut(t, b, "k", "other and longer")
	wantContent(t, b, "k", "other and longer")
}

func testSame(t *testing.T, b bucket.Bucket) {
	comparer, ok := b.(bucket.Comparer)
	if !ok {
		t.Skip("the bucket compares nothing")
	}
	first := mustPut(t, b, "a/k", "x")
	if !comparer.Same(t.Context(), "a/k", first.ETag) {
		t.Error("an object is not the same as it is")
	}
	second := mustPut(t, b, "a/k", "y")
	if comparer.Same(t.Context(), "a/k", first.ETag) || !comparer.Same(t.Context(), "a/k", second.ETag) {
		t.Error("a replaced object is the same as before")
	}
	if err := b.Delete(t.Context(), "a/k", bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a/k", "a", "", "../k", "a/k/b"} {
		if comparer.Same(t.Context(), key, second.ETag) || comparer.Same(t.Context(), key, "") {
			t.Errorf("%q, which is no object, is the same", key)
		}
	}
}

func testMissing(t *testing.T, b bucket.Bucket) {
	ctx := t.Context()
	mustPut(t, b, "there/is/one", "x")
	for _, key := range []string{"no", "there", "there/is", "there/is/two", "there/is/one/more"} {
		_, _, err := b.Get(ctx, key, nil)
		wantError(t, err, bucket.ErrNotFound)
		_, _, err = b.Get(ctx, key, &bucket.Range{Offset: 5, Length: 1})
		wantError(t, err, bucket.ErrNotFound)
		_, err = b.Head(ctx, key)
		wantError(t, err, bucket.ErrNotFound)
		if err := b.Delete(ctx, key, bucket.Condition{}); err != nil {
			t.Fatalf("delete %s: %v", key, err)
		}
		if err := b.Delete(ctx, key, bucket.Condition{ETag: "x"}); err != nil {
			wantError(t, err, bucket.ErrChanged)
		}
	}
	_, err := put(ctx, b, "no", "x", bucket.Condition{ETag: "x"})
	wantError(t, err, bucket.ErrChanged)
	_, err = b.Head(ctx, "no")
	wantError(t, err, bucket.ErrNotFound)
	wantContent(t, b, "there/is/one", "x")
}

func testKeys(t *testing.T, b bucket.Bucket) {
	ctx := t.Context()
	segment := strings.Repeat("s", 255)
	for _, key := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a b", "a\x00", "a\\b", "ä", "a\n", "~a", segment + "s", strings.Repeat("ab/", 341) + "ab"} {
		_, err := put(ctx, b, key, "x", bucket.Condition{})
		wantError(t, err, bucket.ErrKey)
		_, _, err = b.Get(ctx, key, nil)
		wantError(t, err, bucket.ErrKey)
		_, err = b.Head(ctx, key)
		wantError(t, err, bucket.ErrKey)
		wantError(t, b.Delete(ctx, key, bucket.Condition{}), bucket.ErrKey)
	}
	wantNothing(t, b)
	for _, key := range []string{".tmp/a", ".locks/0", "...", "..a", "a..", "%2F%00", "A+b-c_d.e", segment + "/" + segment, strings.Repeat("x/", 511) + "xx"} {
		mustPut(t, b, key, key)
		wantContent(t, b, key, key)
	}
}

func testConditions(t *testing.T, b bucket.Bucket) {
	ctx := t.Context()
	first, err := put(ctx, b, "d/k", "first", bucket.Condition{Absent: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = put(ctx, b, "d/k", "second", bucket.Condition{Absent: true})
	wantError(t, err, bucket.ErrExists)
	wantContent(t, b, "d/k", "first")

	second, err := put(ctx, b, "d/k", "second", bucket.Condition{ETag: first.ETag})
	if err != nil {
		t.Fatal(err)
	}
	_, err = put(ctx, b, "d/k", "third", bucket.Condition{ETag: first.ETag})
	wantError(t, err, bucket.ErrChanged)
	wantError(t, b.Delete(ctx, "d/k", bucket.Condition{ETag: first.ETag}), bucket.ErrChanged)
	wantContent(t, b, "d/k", "second")

	if err := b.Delete(ctx, "d/k", bucket.Condition{ETag: second.ETag}); err != nil {
		t.Fatal(err)
	}
	_, err = b.Head(ctx, "d/k")
	wantError(t, err, bucket.ErrNotFound)
	if _, err := put(ctx, b, "d/k", "again", bucket.Condition{Absent: true}); err != nil {
		t.Fatal(err)
	}
	if b.Delete(ctx, "d/k", bucket.Condition{Absent: true}) == nil {
		t.Fatal("a delete accepts absence as its condition")
	}
	wantContent(t, b, "d/k", "again")
}

func testRanges(t *testing.T, b bucket.Bucket) {
	const content = "0123456789"
	mustPut(t, b, "k", content)
	mustPut(t, b, "empty", "")
	for _, c := range []struct {
		key            string
		offset, length int64
		want           string
		err            error
	}{
		{"k", 0, 1, "0", nil},
		{"k", 0, -1, content, nil},
		{"k", 0, 10, content, nil},
		{"k", 3, 4, "3456", nil},
		{"k", 3, -1, "3456789", nil},
		{"k", 9, 100, "9", nil},
		{"k", 8, 1 << 62, "89", nil},
		{"k", 10, 1, "", bucket.ErrRange},
		{"k", 1 << 62, -1, "", bucket.ErrRange},
		{"empty", 0, -1, "", bucket.ErrRange},
	} {
		got, info, err := get(t.Context(), b, c.key, &bucket.Range{Offset: c.offset, Length: c.length})
		if !errors.Is(err, c.err) || got != c.want {
			t.Errorf("%s from %d, %d bytes: %q, %v; want %q, %v", c.key, c.offset, c.length, got, err, c.want, c.err)
		}
		if err == nil && info.Size != int64(len(content)) {
			t.Errorf("the size of the whole object is %d", info.Size)
		}
	}
}

func testSizes(t *testing.T, b bucket.Bucket) {
	ctx := t.Context()
	for _, c := range []bucket.Condition{{}, {Absent: true}} {
		_, err := b.Put(ctx, "short", strings.NewReader("abc"), 4, c)
		wantError(t, err, io.ErrUnexpectedEOF)
		if _, err := b.Put(ctx, "long", strings.NewReader("abc"), 2, c); err == nil {
			t.Fatal("a body that is too long was stored")
		}
		if _, err := b.Put(ctx, "long", strings.NewReader("abc"), 0, c); err == nil {
			t.Fatal("a body that is too long was stored")
		}
	}
	wantNothing(t, b)
}

func testBodyError(t *testing.T, b bucket.Bucket) {
	broken := errors.New("the body broke off")
	for _, before := range []string{"", "abc", strings.Repeat("x", 1<<20)} {
		for _, c := range []bucket.Condition{{}, {Absent: true}} {
			body := io.MultiReader(strings.NewReader(before), failingReader{broken})
			_, err := b.Put(t.Context(), "d/new", body, -1, c)
			wantError(t, err, broken)
		}
	}
	// Bytes that come together with the error are no end either.
	_, err := b.Put(t.Context(), "d/new", dataAndError{broken}, 4, bucket.Condition{})
	wantError(t, err, broken)
	// Nor is an error that only tells of one.
	for _, size := range []int64{-1, 4} {
		wrapped := fmt.Errorf("the sender went away: %w", io.EOF)
		_, err = b.Put(t.Context(), "d/new", dataAndError{wrapped}, size, bucket.Condition{})
		wantError(t, err, wrapped)
	}
	wantNothing(t, b)

	old := mustPut(t, b, "d/old", "old")
	for _, c := range []bucket.Condition{{}, {ETag: old.ETag}} {
		_, err := b.Put(t.Context(), "d/old", io.MultiReader(strings.NewReader("new"), failingReader{broken}), -1, c)
		wantError(t, err, broken)
	}
	wantContent(t, b, "d/old", "old")
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

type dataAndError struct{ err error }

func (d dataAndError) Read(p []byte) (int, error) { return copy(p, "data"), d.err }

func testCancelledContext(t *testing.T, b bucket.Bucket) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := b.Put(ctx, "k", &cancellingReader{cancel: cancel}, -1, bucket.Condition{})
	wantError(t, err, context.Canceled)
	wantNothing(t, b)
	mustPut(t, b, "there", "x")
	_, _, err = b.Get(ctx, "there", nil)
	wantError(t, err, context.Canceled)
	_, err = b.List(ctx, bucket.ListOptions{})
	wantError(t, err, context.Canceled)
	wantError(t, b.Delete(ctx, "there", bucket.Condition{}), context.Canceled)
	wantContent(t, b, "there", "x")
}

// cancellingReader ends the put's context in the middle and would go on for long.
type cancellingReader struct {
	cancel context.CancelFunc
	reads  int
}

func (c *cancellingReader) Read(p []byte) (int, error) {
	if c.reads++; c.reads == 3 {
		c.cancel()
	}
	if c.reads > 100_000 {
		return 0, io.EOF
	}
	return len(p), nil
}

func testReaderOutlivesKey(t *testing.T, b bucket.Bucket) {
	content := bytes.Repeat([]byte("0123456789"), 200_000)
	if _, err := b.Put(t.Context(), "k", bytes.NewReader(content), -1, bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	body, _, err := b.Get(t.Context(), "k", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	mustPut(t, b, "k", "replaced")
	if got, err := io.ReadAll(body); err == nil && !bytes.Equal(got, content) {
		t.Fatalf("a reader that was open before the replacement yields %d other bytes", len(got))
	}
}

func testCopy(t *testing.T, b bucket.Bucket) {
	mustPut(t, b, "from/a", "content")
	for range 2 {
		info, err := b.Copy(t.Context(), "from/a", "to/b/c")
		if err != nil || info.Key != "to/b/c" || info.Size != 7 || info.ETag == "" {
			t.Fatalf("%+v, %v", info, err)
		}
		if head, err := b.Head(t.Context(), "to/b/c"); err != nil || head.ETag != info.ETag {
			t.Fatalf("Copy says %+v, Head says %+v, %v", info, head, err)
		}
	}
	// The two are not one: what becomes of either leaves the other alone.
	mustPut(t, b, "from/a", "other")
	wantContent(t, b, "to/b/c", "content")
	if _, err := b.Copy(t.Context(), "from/a", "to/b/c"); err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, "to/b/c", "other")
	if err := b.Delete(t.Context(), "from/a", bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, "to/b/c", "other")
	if _, err := b.Copy(t.Context(), "from/a", "to/d"); !errors.Is(err, bucket.ErrNotFound) {
		t.Fatalf("copying what is not there: %v", err)
	}
	if _, err := b.Head(t.Context(), "to/d"); !errors.Is(err, bucket.ErrNotFound) {
		t.Fatalf("it left something: %v", err)
	}
}
