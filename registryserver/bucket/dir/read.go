package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// isMissing is true also for a key below an object, which no object can have.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// describe tells replacements apart by the inode, which differs from that of the file replaced since both exist at
// that moment, and by the time of writing in nanoseconds.
func describe(key string, info fs.FileInfo) bucket.Info {
	var inode uint64
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = s.Ino
	}
	return bucket.Info{
		Key:      key,
		Size:     info.Size(),
		ETag:     fmt.Sprintf("%x-%x-%x", inode, info.Size(), info.ModTime().UnixNano()),
		Modified: info.ModTime(),
	}
}

// Head implements bucket.Bucket.
func (b *Bucket) Head(ctx context.Context, key string) (bucket.Info, error) {
	if err := begin(ctx, key); err != nil {
		return bucket.Info{}, err
	}
	return b.stat(key)
}

func (b *Bucket) stat(key string) (bucket.Info, error) {
	info, err := b.root.Lstat(path.Join(objectsDir, key))
	if err == nil && info.Mode().IsRegular() {
		return describe(key, info), nil
	}
	if err == nil || isMissing(err) {
		return bucket.Info{}, fmt.Errorf("read %s: %w", key, bucket.ErrNotFound)
	}
	return bucket.Info{}, failed("read", key, err, false)
}

// Get implements bucket.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	if err := begin(ctx, key); err != nil {
		return nil, bucket.Info{}, err
	}
	f, info, err := b.open(key)
	if err != nil {
		return nil, bucket.Info{}, err
	}
	o := &object{Reader: f, file: f, key: key}
	if r == nil {
		return o, info, nil
	}
	if r.Offset < 0 || r.Offset >= info.Size {
		_ = f.Close()
		return nil, bucket.Info{}, fmt.Errorf("read %s from byte %d of %d: %w", key, r.Offset, info.Size, bucket.ErrRange)
	}
	length := info.Size - r.Offset
	if r.Length >= 0 {
		length = min(length, r.Length)
	}
	o.Reader = io.NewSectionReader(f, r.Offset, length)
	return o, info, nil
}

func (b *Bucket) open(key string) (*os.File, bucket.Info, error) {
	// Without O_NONBLOCK, a named pipe that somebody put there would block for ever.
	f, err := b.root.OpenFile(path.Join(objectsDir, key), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		if isMissing(err) {
			return nil, bucket.Info{}, fmt.Errorf("read %s: %w", key, bucket.ErrNotFound)
		}
		return nil, bucket.Info{}, failed("read", key, err, false)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, bucket.Info{}, failed("read", key, err, false)
	}
	if !info.Mode().IsRegular() {
		_ = f.Close()
		return nil, bucket.Info{}, fmt.Errorf("read %s: %w", key, bucket.ErrNotFound)
	}
	return f, describe(key, info), nil
}

// object is an open object, or a part of it.
type object struct {
	io.Reader
	file *os.File
	key  string
}

func (o *object) Read(p []byte) (int, error) {
	n, err := o.Reader.Read(p)
	if err != nil && !isEOF(err) {
		err = failed("read", o.key, err, false)
	}
	return n, err
}

func (o *object) Close() error { return o.file.Close() }

// begin refuses what no operation should start with.
func begin(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return bucket.CheckKey(key)
}
