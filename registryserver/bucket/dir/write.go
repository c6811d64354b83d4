package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"golang.org/x/sys/unix"
)

// maxBuffer is the memory that one put takes for copying, in bytes.
const maxBuffer = 128 << 10

// maxTries bounds how often a put makes its directory again after deletes removed it as empty.
const maxTries = 1000

func lockOf(key string) int {
	h := fnv.New32a()
	_, _ = io.WriteString(h, key)
	return int(h.Sum32() % lockCount)
}

// Put implements bucket.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, body io.Reader, size int64, c bucket.Condition) (bucket.Info, error) {
	if err := begin(ctx, key); err != nil {
		return bucket.Info{}, err
	}
	if c.Absent && c.ETag != "" {
		return bucket.Info{}, fmt.Errorf("write %s: a condition is either absence or an ETag", key)
	}
	tmp, written, err := b.write(ctx, key, body, size)
	if err != nil {
		return bucket.Info{}, err
	}
	if err := b.place(tmp, key, c); err != nil {
		_ = b.root.Remove(tmp)
		return bucket.Info{}, err
	}
	if err := b.syncAbove(path.Join(objectsDir, key)); err != nil {
		return bucket.Info{}, failed("write", key, err, true)
	}
	return describe(key, written), nil
}

// write stores the body in a temporary file, complete and durable, or not at all.
func (b *Bucket) write(ctx context.Context, key string, body io.Reader, size int64) (string, fs.FileInfo, error) {
	name := rand.Text()
	f, err := b.openIn(tmpDir, name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return "", nil, failed("write", key, err, true)
	}
	tmp := path.Join(tmpDir, name)
	info, err := b.fill(ctx, key, tmp, f, body, size)
	if closeErr := f.Close(); err == nil && closeErr != nil {
		err = failed("write", key, closeErr, true)
	}
	if err != nil {
		_ = b.root.Remove(tmp)
		return "", nil, err
	}
	return tmp, info, nil
}

func (b *Bucket) fill(ctx context.Context, key, tmp string, f *os.File, body io.Reader, size int64) (fs.FileInfo, error) {
	bodyErr, fileErr := copyBody(ctx, f, body, size)
	if bodyErr != nil {
		return nil, bodyErr
	}
	if fileErr == nil {
		// The kernel's own time stamps are as coarse as its clock ticks; the ETag needs all nanoseconds.
		now := time.Now()
		fileErr = b.root.Chtimes(tmp, now, now)
	}
	if fileErr == nil {
		fileErr = f.Sync()
	}
	if fileErr != nil {
		return nil, failed("write", key, fileErr, true)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, failed("write", key, err, true)
	}
	return info, nil
}

// copyBody tells what the body failed with, which the caller of Put knows best, from what the file failed with.
func copyBody(ctx context.Context, f io.Writer, body io.Reader, size int64) (bodyErr, fileErr error) {
	length := int64(maxBuffer)
	if size >= 0 {
		// One byte more than is announced, to see the end, and what is behind it, in one read.
		length = min(length, size+1)
	}
	buffer := make([]byte, length)
	for read := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err, nil
		}
		n, err := body.Read(buffer)
		read += int64(n)
		if size >= 0 && read > size {
			return fmt.Errorf("body is longer than the %d bytes announced", size), nil
		}
		if _, fileErr := f.Write(buffer[:n]); fileErr != nil {
			return nil, fileErr
		}
		if err == io.EOF {
			if size >= 0 && read < size {
				return io.ErrUnexpectedEOF, nil
			}
			return nil, nil
		}
		if err != nil {
			return err, nil
		}
	}
}

// place gives a temporary file its final name, if the condition holds. It leaves the temporary name behind only when
// it fails.
func (b *Bucket) place(tmp, key string, c bucket.Condition) error {
	name := path.Join(objectsDir, key)
	if c.Absent {
		return b.placeAbsent(tmp, name, key)
	}
	unlock, err := b.lock(key)
	if err != nil {
		return failed("write", key, err, true)
	}
	defer unlock()
	if c.ETag != "" {
		if err := b.matches(key, c.ETag); err != nil {
			return err
		}
	}
	err = b.inItsDirectory(name, func() error { return b.root.Rename(tmp, name) })
	if err != nil {
		return b.notPlaced(name, key, err)
	}
	return nil
}

func (b *Bucket) placeAbsent(tmp, name, key string) error {
	err := b.inItsDirectory(name, func() error { return b.root.Link(tmp, name) })
	if err == nil {
		_ = b.root.Remove(tmp)
		return nil
	}
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		return fmt.Errorf("write %s: %w: the file system has no hard links", key, bucket.ErrUnavailable)
	}
	if !errors.Is(err, fs.ErrExist) || b.isDir(name) {
		return b.notPlaced(name, key, err)
	}
	// Whoever hears that the object exists relies on it, but its writer may not have synced its name yet.
	if err := b.syncAbove(name); err != nil {
		return failed("write", key, err, true)
	}
	return fmt.Errorf("write %s: %w", key, bucket.ErrExists)
}

func (b *Bucket) isDir(name string) bool {
	info, err := b.root.Lstat(name)
	return err == nil && info.IsDir()
}

// notPlaced says why a file did not get its name: "a" and "a/b" cannot both be objects.
func (b *Bucket) notPlaced(name, key string, err error) error {
	if errors.Is(err, syscall.ENOTDIR) || b.isDir(name) {
		return fmt.Errorf("write %s: %w: it is a prefix of another key, or another key is a prefix of it", key, bucket.ErrKey)
	}
	return failed("write", key, err, true)
}

// inItsDirectory makes the directory that name needs and tries again when a concurrent delete removes it as empty.
func (b *Bucket) inItsDirectory(name string, try func() error) error {
	err := try()
	for range maxTries {
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := b.root.MkdirAll(path.Dir(name), dirMode); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		err = try()
	}
	return err
}

// matches returns ErrChanged unless the object has the ETag. The caller holds the key's lock.
func (b *Bucket) matches(key, etag string) error {
	info, err := b.stat(key)
	if err != nil && !errors.Is(err, bucket.ErrNotFound) {
		return err
	}
	if err != nil || info.ETag != etag {
		return fmt.Errorf("change %s: %w", key, bucket.ErrChanged)
	}
	return nil
}

// Delete implements bucket.Bucket. It needs no free space.
func (b *Bucket) Delete(ctx context.Context, key string, c bucket.Condition) error {
	if err := begin(ctx, key); err != nil {
		return err
	}
	if c.Absent {
		return fmt.Errorf("delete %s: absence is no condition for a delete", key)
	}
	if err := b.remove(key, c.ETag); err != nil {
		return err
	}
	// Directories that the object leaves empty go with it. Once one of them is gone, so is what it held: only the
	// nearest one that stays needs to be synced.
	parent := path.Dir(path.Join(objectsDir, key))
	for parent != objectsDir {
		if err := b.removeEmpty(parent); err != nil && !errors.Is(err, fs.ErrNotExist) {
			break
		}
		parent = path.Dir(parent)
	}
	if err := b.syncDir(parent); err != nil {
		return failed("delete", key, err, true)
	}
	return nil
}

func (b *Bucket) remove(key, etag string) error {
	unlock, err := b.lock(key)
	if err != nil {
		return failed("delete", key, err, true)
	}
	defer unlock()
	if etag != "" {
		if err := b.matches(key, etag); err != nil {
			return err
		}
	} else if _, err := b.stat(key); err != nil {
		// Removing what is not an object could remove an empty directory instead.
		if errors.Is(err, bucket.ErrNotFound) {
			return nil
		}
		return err
	}
	if err := b.root.Remove(path.Join(objectsDir, key)); err != nil && !isMissing(err) {
		return failed("delete", key, err, true)
	}
	return nil
}

// removeEmpty removes a directory if it is empty. os.Root.Remove would also remove a file that has taken its name.
func (b *Bucket) removeEmpty(name string) error {
	parent, err := b.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	return unix.Unlinkat(int(parent.Fd()), path.Base(name), unix.AT_REMOVEDIR)
}
