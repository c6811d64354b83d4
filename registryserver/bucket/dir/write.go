package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"golang.org/x/sys/unix"
)

const (
	// bufferBytes is one of the at most two buffers that a put takes for copying.
	bufferBytes = 128 << 10
	// writingStep is how much of a large file the kernel is told to write at once, so that the disk works while the
	// rest is still coming, and not only at the end.
	writingStep = 8 << 20
)

// Put implements bucket.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, body io.Reader, size int64, c bucket.Condition) (bucket.Info, error) {
	if err := begin(ctx, key); err != nil {
		return bucket.Info{}, err
	}
	if c.Absent && c.ETag != "" {
		return bucket.Info{}, fmt.Errorf("write %s: a condition is either absence or an ETag", key)
	}
	defer runtime.KeepAlive(b.root)
	t, err := b.create()
	if err != nil {
		return bucket.Info{}, failed("write", key, err, true)
	}
	defer t.discard()
	bodyErr, fileErr := b.copyBody(ctx, &appender{system: b.system, fd: t.fd}, body, size)
	if bodyErr != nil {
		return bucket.Info{}, bodyErr
	}
	var info bucket.Info
	if fileErr == nil {
		info, fileErr = t.finish(key)
	}
	if fileErr != nil {
		return bucket.Info{}, failed("write", key, fileErr, true)
	}
	if err := b.place(t, key, c); err != nil {
		return bucket.Info{}, err
	}
	return info, nil
}

// temp is an open file that is not an object yet.
type temp struct {
	b  *Bucket
	fd int
	// path is that of its name in ".tmp", below the root, or empty while it has no name at all.
	path string
}

// create makes a temporary file: without a name where the file system has that, so that nothing is left of it when the
// process is killed, and two changes of the directory less need to be written.
func (b *Bucket) create() (*temp, error) {
	for tries := 0; ; tries++ {
		t := &temp{b: b}
		var err error
		if b.features.unnamed {
			t.fd, err = b.system.CreateUnnamed(b.rootFD(), tmpDir)
		} else {
			t.path = tmpName()
			t.fd, err = b.system.Create(b.rootFD(), t.path)
		}
		if !errors.Is(err, unix.ENOENT) || tries == maxTries {
			return t, err
		}
		d, err := b.directory(tmpDir, true)
		if err != nil {
			return nil, err
		}
		d.close()
	}
}

func tmpName() string { return tmpDir + "/" + rand.Text() }

// finish makes the content durable, and describes it as the object key.
func (t *temp) finish(key string) (bucket.Info, error) {
	// The kernel's own time stamps are as coarse as its clock ticks. An inode that was used again within a tick would
	// bring back the ETag of another object, so the time is set, in nanoseconds.
	if err := setTimes(t.fd, t.b.rootFD(), t.path, time.Now()); err != nil {
		return bucket.Info{}, err
	}
	if err := interrupted(func() error { return t.b.system.Sync(t.fd) }); err != nil {
		return bucket.Info{}, err
	}
	var s unix.Stat_t
	if err := unix.Fstat(t.fd, &s); err != nil {
		return bucket.Info{}, err
	}
	return describe(key, &s), nil
}

// link gives the file a name that must be free.
func (t *temp) link(dir int, name string) error {
	if t.path == "" {
		return t.b.system.Link(t.fd, -1, "", dir, name)
	}
	return t.b.system.Link(-1, t.b.rootFD(), t.path, dir, name)
}

// rename gives the file a name in place of what has it.
func (t *temp) rename(dir int, name string) error {
	if err := t.name(); err != nil {
		return err
	}
	return t.b.system.Rename(t.b.rootFD(), t.path, dir, name)
}

// name gives the file a name in ".tmp" if it has none.
func (t *temp) name() error {
	if t.path != "" {
		return nil
	}
	name := tmpName()
	if err := t.link(t.b.rootFD(), name); err != nil {
		return err
	}
	t.path = name
	return nil
}

// discard ends the work on the file. The temporary name may be gone: renaming took it away, unless the object had been
// another name of the same file before.
func (t *temp) discard() {
	if t.path != "" {
		_ = t.b.system.Unlink(t.b.rootFD(), t.path)
	}
	if t.fd >= 0 {
		_ = unix.Close(t.fd)
	}
}

// appender writes to a file.
type appender struct {
	system System
	fd     int
	// written counts the bytes, of which the kernel was told to write so many.
	written, started int64
}

func (a *appender) write(p []byte) error {
	for len(p) > 0 {
		n, err := a.system.Write(a.fd, p)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		n = max(n, 0)
		p = p[n:]
		a.written += int64(n)
	}
	if a.written-a.started >= writingStep {
		startWriting(a.fd, a.started, a.written-a.started)
		a.started = a.written
	}
	return nil
}

// source reads a body in large pieces.
type source struct {
	ctx  context.Context //nolint:containedctx // It is that of the one put that reads.
	body io.Reader
	// size is the number of bytes that are to come, or negative; read counts those that came.
	size, read int64
}

// fill reads until p is full or the body has ended.
func (s *source) fill(p []byte) (filled int, ended bool, err error) {
	for {
		if err := s.ctx.Err(); err != nil {
			return 0, false, err
		}
		n, err := s.body.Read(p[filled:])
		filled += n
		s.read += int64(n)
		switch {
		case s.size >= 0 && s.read > s.size:
			return 0, false, fmt.Errorf("body is longer than the %d bytes announced", s.size)
		case err == io.EOF && s.read < s.size:
			return 0, false, io.ErrUnexpectedEOF
		case err == io.EOF:
			return filled, true, nil
		case err != nil:
			return 0, false, err
		case filled == len(p):
			return filled, false, nil
		}
	}
}

// copyBody tells what the body failed with, which the caller of Put knows best, from what the file failed with.
func (b *Bucket) copyBody(ctx context.Context, f *appender, body io.Reader, size int64) (bodyErr, fileErr error) {
	from := &source{ctx: ctx, body: body, size: size}
	buffer, _ := b.buffers.Get().(*[bufferBytes]byte)
	defer b.buffers.Put(buffer)
	n, ended, err := from.fill(buffer[:])
	switch {
	case err != nil:
		return err, nil
	case ended:
		return nil, f.write(buffer[:n])
	}
	return b.copyLarge(f, from, buffer)
}

// copyLarge writes one buffer, first being full already, while it reads, and its reader hashes, the next.
func (b *Bucket) copyLarge(f *appender, from *source, first *[bufferBytes]byte) (bodyErr, fileErr error) {
	second, _ := b.buffers.Get().(*[bufferBytes]byte)
	defer b.buffers.Put(second)
	written := make(chan error, 1)
	for full, next := first, second; ; full, next = next, full {
		go func() { written <- f.write(full[:]) }()
		n, ended, err := func() (int, bool, error) {
			// Also when the body panics: the buffer and the file are somebody else's then.
			defer func() { fileErr = <-written }()
			return from.fill(next[:])
		}()
		switch {
		case fileErr != nil:
			return nil, fileErr
		case err != nil:
			return err, nil
		case ended:
			return nil, f.write(next[:n])
		}
	}
}
