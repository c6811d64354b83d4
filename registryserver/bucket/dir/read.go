package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strconv"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"golang.org/x/sys/unix"
)

// maxHeld is the size up to which an object is read as a whole when it is opened, and no file is kept open.
const maxHeld = 8 << 10

// isMissing is true also for a key below an object, which no object can have.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

// describe tells replacements apart by the inode, which differs from that of the file replaced since both exist at
// that moment, and by the time of writing in nanoseconds.
func describe(key string, s *unix.Stat_t) bucket.Info {
	var tag [maxTag]byte
	return bucket.Info{Key: key, Size: s.Size, ETag: string(appendTag(tag[:0], s)), Modified: modified(s)}
}

// maxTag is the length of the longest ETag: three numbers.
const maxTag = 3*17 + 2

func appendTag(tag []byte, s *unix.Stat_t) []byte {
	tag = append(strconv.AppendUint(tag, s.Ino, 16), '-')
	tag = append(strconv.AppendInt(tag, s.Size, 16), '-')
	return strconv.AppendInt(tag, modified(s).UnixNano(), 16)
}

// Head implements bucket.Bucket.
func (b *Bucket) Head(ctx context.Context, key string) (bucket.Info, error) {
	if err := begin(ctx, key); err != nil {
		return bucket.Info{}, err
	}
	return b.stat(key)
}

// Same implements bucket.Comparer with one system call, where Head takes three. That it follows symbolic links on the
// way, which Head does not, is of no consequence: what has this inode number, size and time is the object.
func (b *Bucket) Same(ctx context.Context, key, etag string) bool {
	if begin(ctx, key) != nil {
		return false
	}
	defer runtime.KeepAlive(b.root)
	var s unix.Stat_t
	err := unix.Fstatat(b.rootFD(), objectsDir+"/"+key, &s, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || s.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	var tag [maxTag]byte
	return string(appendTag(tag[:0], &s)) == etag
}

func (b *Bucket) stat(key string) (bucket.Info, error) {
	var s unix.Stat_t
	fd, err := b.openObject(key, statFlags, &s)
	if err != nil {
		return bucket.Info{}, err
	}
	_ = unix.Close(fd)
	return describe(key, &s), nil
}

// openObject opens and describes an object.
func (b *Bucket) openObject(key string, flags int, s *unix.Stat_t) (int, error) {
	fd, err := b.beneath(objectsDir+"/"+key, flags, 0)
	if err == nil {
		if err = unix.Fstat(fd, s); err == nil && s.Mode&unix.S_IFMT != unix.S_IFREG {
			err = unix.ENOENT
		}
		if err != nil {
			_ = unix.Close(fd)
		}
	}
	switch {
	case err == nil:
		return fd, nil
	case isMissing(err):
		return -1, fmt.Errorf("read %s: %w", key, bucket.ErrNotFound)
	}
	return -1, failed("read", key, err, false)
}

// Get implements bucket.Bucket. The reader of a large object is an io.WriterTo that lets the kernel send the file where
// the destination knows how to.
func (b *Bucket) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	if err := begin(ctx, key); err != nil {
		return nil, bucket.Info{}, err
	}
	var s unix.Stat_t
	// Without O_NONBLOCK, a named pipe that somebody put there would block for ever.
	fd, err := b.openObject(key, unix.O_RDONLY|unix.O_NONBLOCK, &s)
	if err != nil {
		return nil, bucket.Info{}, err
	}
	offset, length := int64(0), s.Size
	if r != nil {
		if r.Offset < 0 || r.Offset >= s.Size {
			_ = unix.Close(fd)
			return nil, bucket.Info{}, fmt.Errorf("read %s from byte %d of %d: %w", key, r.Offset, s.Size, bucket.ErrRange)
		}
		offset, length = r.Offset, s.Size-r.Offset
		if r.Length >= 0 {
			length = min(length, r.Length)
		}
	}
	var body io.ReadCloser
	if length <= maxHeld {
		body, err = hold(fd, offset, length)
	} else {
		body, err = open(fd, key, offset, length)
	}
	if err != nil {
		return nil, bucket.Info{}, failed("read", key, err, false)
	}
	return body, describe(key, &s), nil
}

// held is an object, or part of one, in memory.
type held struct{ bytes.Reader }

func (*held) Close() error { return nil }

// hold reads part of a file, and closes it.
func hold(fd int, offset, length int64) (*held, error) {
	defer func() { _ = unix.Close(fd) }()
	content := make([]byte, length)
	for read := 0; read < len(content); {
		n, err := unix.Pread(fd, content[read:], offset+int64(read))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return nil, io.ErrUnexpectedEOF
		}
		read += n
	}
	h := &held{}
	h.Reset(content)
	return h, nil
}

// object is an open object, or a part of it.
type object struct {
	part io.LimitedReader
	file *os.File
	key  string
}

func open(fd int, key string, offset, length int64) (*object, error) {
	if offset > 0 {
		if _, err := unix.Seek(fd, offset, io.SeekStart); err != nil {
			_ = unix.Close(fd)
			return nil, err
		}
	}
	f := os.NewFile(uintptr(fd), key)
	return &object{part: io.LimitedReader{R: f, N: length}, file: f, key: key}, nil
}

func (o *object) Read(p []byte) (int, error) {
	n, err := o.part.Read(p)
	return n, o.failed(err)
}

// WriteTo implements io.WriterTo.
func (o *object) WriteTo(w io.Writer) (int64, error) {
	var n int64
	var err error
	if to, ok := w.(io.ReaderFrom); ok {
		n, err = to.ReadFrom(&o.part)
	} else {
		n, err = io.Copy(w, &o.part)
	}
	return n, o.failed(err)
}

// failed tells what the file failed with from what a destination did.
func (o *object) failed(err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return failed("read", o.key, err, false)
	}
	return err
}

func (o *object) Close() error { return o.file.Close() }

// begin refuses what no operation should start with.
func begin(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return bucket.CheckKey(key)
}
