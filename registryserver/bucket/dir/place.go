package dir

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"path"
	"runtime"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"golang.org/x/sys/unix"
)

// maxTries bounds how often a put makes its directory again after somebody removed it.
const maxTries = 1000

func lockOf(key string) int {
	h := fnv.New32a()
	_, _ = io.WriteString(h, key)
	return int(h.Sum32() % lockCount)
}

// place makes a temporary file the object, if the condition holds, and makes that durable.
func (b *Bucket) place(t *temp, key string, c bucket.Condition) error {
	for tries := 0; ; tries++ {
		d, err := b.directory(path.Join(objectsDir, path.Dir(key)), true)
		if err != nil {
			return notPlaced(key, err)
		}
		err = b.placeIn(d, t, key, c)
		// Whoever hears that the object exists relies on it, but its writer may not have synced its name yet.
		if err == nil || errors.Is(err, bucket.ErrExists) {
			if syncErr := b.syncNames(d); syncErr != nil {
				err = failed("write", key, syncErr, true)
			}
		}
		d.close()
		if !errors.Is(err, fs.ErrNotExist) || tries == maxTries {
			return err
		}
	}
}

func (b *Bucket) placeIn(d *directory, t *temp, key string, c bucket.Condition) error {
	name := path.Base(key)
	if c.ETag == "" {
		err := t.link(d.fd, name)
		if errors.Is(err, unix.EEXIST) && b.isDir(d, name) {
			if err = b.makeWay(d.fd, name); err == nil {
				err = t.link(d.fd, name)
			}
		}
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EEXIST):
			return notPlaced(key, err)
		case c.Absent:
			return fmt.Errorf("write %s: %w", key, bucket.ErrExists)
		}
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
	if err := t.rename(d.fd, name); err != nil {
		return notPlaced(key, err)
	}
	return nil
}

func (b *Bucket) isDir(d *directory, name string) bool {
	var s unix.Stat_t
	return unix.Fstatat(d.fd, name, &s, unix.AT_SYMLINK_NOFOLLOW) == nil && s.Mode&unix.S_IFMT == unix.S_IFDIR
}

// makeWay removes a directory that has nothing but empty directories in it, all of whose objects were deleted.
func (b *Bucket) makeWay(parent int, name string) error {
	fd, err := openStepwise(parent, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	entries, err := readNames(fd)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.isDir {
			return unix.ENOTEMPTY
		}
		if err := b.makeWay(fd, e.name); err != nil {
			return err
		}
	}
	return b.system.Rmdir(parent, name)
}

// notPlaced says why a file did not get its name: "a" and "a/b" cannot both be objects.
func notPlaced(key string, err error) error {
	switch {
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENOTEMPTY):
		return fmt.Errorf("write %s: %w: it is a prefix of another key, or another key is a prefix of it", key, bucket.ErrKey)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("write %s: %w: the file system has no hard links", key, bucket.ErrUnavailable)
	}
	return failed("write", key, err, true)
}

// Copy implements bucket.Bucket with a hard link. Modified stays that of the object copied.
func (b *Bucket) Copy(ctx context.Context, from, to string) (bucket.Info, error) {
	if err := errors.Join(begin(ctx, from), bucket.CheckKey(to)); err != nil {
		return bucket.Info{}, err
	}
	defer runtime.KeepAlive(b.root)
	t := &temp{b: b, fd: -1, path: tmpName()}
	defer t.discard()
	if err := b.linkObject(from, t.path); err != nil {
		return bucket.Info{}, err
	}
	if err := b.place(t, to, bucket.Condition{}); err != nil {
		return bucket.Info{}, err
	}
	return b.stat(to)
}

// linkObject gives an object one more name, below the root.
func (b *Bucket) linkObject(key, name string) error {
	if _, err := b.stat(key); err != nil {
		return err
	}
	tmp, err := b.directory(tmpDir, true)
	if err != nil {
		return failed("copy", key, err, true)
	}
	tmp.close()
	d, err := b.directory(path.Join(objectsDir, path.Dir(key)), false)
	if err == nil {
		err = b.system.Link(-1, d.fd, path.Base(key), b.rootFD(), name)
		d.close()
	}
	if isMissing(err) {
		return fmt.Errorf("read %s: %w", key, bucket.ErrNotFound)
	}
	if err != nil {
		return failed("copy", key, err, true)
	}
	return nil
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
	d, err := b.directory(path.Join(objectsDir, path.Dir(key)), false)
	if isMissing(err) {
		if c.ETag != "" {
			return fmt.Errorf("delete %s: %w", key, bucket.ErrChanged)
		}
		return nil
	}
	if err != nil {
		return failed("delete", key, err, true)
	}
	defer d.close()
	if err := b.remove(d, key, c.ETag); err != nil {
		return err
	}
	// Also where it was gone already: whoever removed it may not have come to this yet.
	if err := b.syncs.sync(d); err != nil {
		return failed("delete", key, err, true)
	}
	return nil
}

func (b *Bucket) remove(d *directory, key, etag string) error {
	unlock, err := b.lock(key)
	if err != nil {
		return failed("delete", key, err, true)
	}
	defer unlock()
	if etag != "" {
		if err := b.matches(key, etag); err != nil {
			return err
		}
	} else if _, err := b.stat(key); errors.Is(err, bucket.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if err := b.system.Unlink(d.fd, path.Base(key)); err != nil && !isMissing(err) {
		return failed("delete", key, err, true)
	}
	return nil
}
