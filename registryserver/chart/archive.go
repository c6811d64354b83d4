package chart

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxArchiveBytes bounds an archive, compressed as well as not. Helm reads no larger one.
const MaxArchiveBytes = 100 << 20

const (
	// maxRatio is how many bytes each compressed one may become. Charts have been seen with 40. What is smaller than
	// minBound when it is uncompressed does no harm.
	maxRatio = 200
	minBound = 1 << 20
	// maxEntries bounds the files and directories of a chart.
	maxEntries = 10_000
	// maxEntryHeaders bounds what stands before the content of an entry: extended headers, from which a tar reader
	// makes strings and maps before it knows the entry, one behind the other.
	maxEntryHeaders = 16 << 10
	maxPathBytes    = 1024
	// blockBytes is what a tar archive is made of.
	blockBytes = 512
	// sourceBuffer is for reading from storage.
	sourceBuffer = 16 << 10
)

// Scan reads a chart archive of size bytes to its end, within bounds, and returns what its Chart.yaml says. Nothing of
// the archive but the Chart.yaml is held in memory. An archive that is not a sound chart is a
// *repository.InvalidManifestError; an error of archive itself is passed on, wrapped.
func Scan(ctx context.Context, archive io.Reader, size int64) (Metadata, error) {
	chartYAML, err := new(scanner).scan(ctx, archive, size, nil)
	if err != nil {
		return Metadata{}, err
	}
	return parseChartYAML(chartYAML)
}

// scanner reads one archive after the other. The zero value is good.
type scanner struct {
	source source
	buffer *bufio.Reader
	zip    gzip.Reader
	stream stream
}

// visit is shown each file of an archive beside its Chart.yaml, by its path below the chart's directory, and may read it:
// all of it, or nothing. Where it returns an error, that is the scan's.
type visit func(name string, size int64, content io.Reader) (read bool, err error)

// scan returns the Chart.yaml of an archive. visit may be nil.
func (s *scanner) scan(ctx context.Context, archive io.Reader, size int64, visit visit) (chartYAML []byte, err error) {
	s.source = source{ctx: ctx, r: archive}
	defer func() {
		// A scanner that waits for the next archive must not keep this one.
		failed := s.source.err
		s.source = source{}
		if failed != nil {
			chartYAML, err = nil, fmt.Errorf("read the archive: %w", failed)
		}
	}()
	if s.buffer == nil {
		s.buffer = bufio.NewReaderSize(&s.source, sourceBuffer)
	}
	s.buffer.Reset(&s.source)
	if err := s.zip.Reset(s.buffer); err != nil {
		return nil, refuse("the chart archive is not compressed with gzip: make it with helm package")
	}
	// Of several members behind one another some programs read the first, and others all.
	s.zip.Multistream(false)
	s.stream = stream{r: &s.zip, left: min(MaxArchiveBytes, max(minBound, maxRatio*min(size, MaxArchiveBytes)))}
	if chartYAML, err = s.entries(visit); err != nil {
		return nil, err
	}
	if err := s.end(); err != nil {
		return nil, err
	}
	return chartYAML, nil
}

func (s *scanner) entries(visit visit) (chartYAML []byte, err error) {
	var (
		reader = tar.NewReader(&s.stream)
		root   string
		found  bool
		// unread is what Next skips.
		unread int64
	)
	for n := 0; ; n++ {
		s.stream.allowed = unread + blockBytes + maxEntryHeaders
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, damaged(err)
		}
		if n == maxEntries {
			return nil, refuse("the chart archive has more than %d files", maxEntries)
		}
		unread = h.Size
		if h.Typeflag == tar.TypeXGlobalHeader {
			if err := checkGlobal(h); err != nil {
				return nil, err
			}
			continue
		}
		first, rest, err := checkEntry(h)
		if err != nil {
			return nil, err
		}
		if root == "" {
			root = first
		}
		if first != root {
			return nil, refuse("the chart archive has more than one directory at its root: %.100q and %.100q", root, first)
		}
		if rest != "Chart.yaml" {
			if visit != nil && h.Typeflag == tar.TypeReg {
				s.stream.allowed = h.Size
				read, err := visit(rest, h.Size, reader)
				if err != nil {
					return nil, damaged(err)
				}
				if read {
					unread = 0
				}
			}
			continue
		}
		if found {
			return nil, refuse("the chart archive has the file %.100q twice", h.Name)
		}
		found = true
		s.stream.allowed = h.Size
		if chartYAML, err = readChartYAML(reader, h.Size); err != nil {
			return nil, err
		}
		unread = 0
	}
	if !found {
		return nil, refuse("the chart archive has no Chart.yaml in its root directory: make it with helm package")
	}
	return chartYAML, nil
}

// end reads what is behind the last entry, where nothing may be but the zeros that fill the last blocks.
func (s *scanner) end() error {
	s.stream.allowed = MaxArchiveBytes
	var buffer [4096]byte
	for {
		n, err := s.stream.Read(buffer[:])
		for _, b := range buffer[:n] {
			if b != 0 {
				return refuse("the chart archive has data behind its end")
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return damaged(err)
		}
	}
	if _, err := s.buffer.Peek(1); !errors.Is(err, io.EOF) {
		return refuse("the chart archive has data behind the end of its gzip stream")
	}
	return nil
}

// checkGlobal passes the comment with which git archive begins. Other programs apply the rest to all entries, archive/tar
// to none, so that they would see other files.
func checkGlobal(h *tar.Header) error {
	for key := range h.PAXRecords {
		if key != "comment" {
			return refuse("the chart archive has a global header that sets %.100q", key)
		}
	}
	return nil
}

// checkEntry refuses what could leave the directory that a chart is unpacked into, and what programs read differently.
// It returns the path's first element and what is behind it.
func checkEntry(h *tar.Header) (root, rest string, err error) {
	if h.Size > MaxArchiveBytes {
		return "", "", tooLarge()
	}
	name := h.Name
	if len(name) > maxPathBytes {
		return "", "", refuse("the chart archive has a path of more than %d bytes: %.100q", maxPathBytes, name)
	}
	mode := h.FileInfo().Mode()
	regular := h.Typeflag == tar.TypeReg && mode.IsRegular()
	directory := h.Typeflag == tar.TypeDir && mode.IsDir()
	for key := range h.PAXRecords {
		regular = regular && !strings.HasPrefix(key, "GNU.sparse.")
	}
	if !regular && !directory {
		return "", "", refuse("the chart archive has something that is neither a file nor a directory: %.100q (links, devices and sparse files are not allowed)", name)
	}
	if directory {
		name = strings.TrimSuffix(name, "/")
	}
	if !utf8.ValidString(name) || strings.ContainsRune(name, '\\') || strings.ContainsFunc(name, unicode.IsControl) {
		return "", "", refuse("the chart archive has a path with a character that is not allowed: %.100q", h.Name)
	}
	for i, element := range strings.Split(name, "/") {
		if element == "" || element == ".." || element == "." && i > 0 || isDrive(element) {
			return "", "", refuse("the chart archive has a path that is not plain and relative: %.100q", h.Name)
		}
	}
	root, rest, _ = strings.Cut(name, "/")
	if regular && rest == "" {
		return "", "", refuse("the chart archive has a file outside of its directory: %.100q", name)
	}
	if directory {
		rest += "/"
	}
	return root, rest, nil
}

// isDrive reports elements that begin as paths do on Windows.
func isDrive(element string) bool {
	return len(element) >= 2 && element[1] == ':' && ('a' <= element[0]|0x20 && element[0]|0x20 <= 'z')
}

func readChartYAML(r io.Reader, size int64) ([]byte, error) {
	if size > maxMetadataBytes {
		return nil, refuse("the Chart.yaml has %d bytes; at most %d are allowed", size, maxMetadataBytes)
	}
	content := make([]byte, size)
	if _, err := io.ReadFull(r, content); err != nil {
		return nil, damaged(err)
	}
	return content, nil
}

// damaged explains what a reader says of an archive, unless it was us who stopped it.
func damaged(err error) error {
	if stopped := new(stopError); errors.As(err, &stopped) {
		return stopped.reason
	}
	return refuse("the chart archive is damaged: %v", err)
}

func tooLarge() error {
	return refuse("the chart archive becomes too large when it is uncompressed: at most %d MiB and %d times its size are allowed", MaxArchiveBytes>>20, maxRatio)
}

// source passes on what storage gives and keeps what went wrong with it, for which the archive is not to blame.
type source struct {
	ctx context.Context //nolint:containedctx // io.Reader has no place for it; it lives as long as one scan.
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if s.err = s.ctx.Err(); s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// stream is an archive that is uncompressed. It ends with an error where it becomes too large, and where more is read
// at once than is allowed.
type stream struct {
	r             io.Reader
	left, allowed int64
}

// stopError ends a read for a reason.
type stopError struct{ reason error }

func (e *stopError) Error() string { return e.reason.Error() }

func (s *stream) Read(p []byte) (int, error) {
	if s.allowed <= 0 {
		return 0, &stopError{refuse("the chart archive has a file with more than %d KiB of headers", maxEntryHeaders>>10)}
	}
	n, err := s.r.Read(p[:min(int64(len(p)), s.allowed)])
	s.allowed -= int64(n)
	s.left -= int64(n)
	if s.left < 0 {
		return 0, &stopError{tooLarge()}
	}
	return n, err
}
