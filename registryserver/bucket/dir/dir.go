// Package dir is a bucket in a directory, on a local disk or on a network file system.
//
// Objects are files below "objects", under their keys. A file appears there only complete and on disk: it is written
// and synced under a name in ".tmp", then linked or renamed into place, and the directories above it are synced. So a
// process that is killed, or a machine that loses power, leaves behind a temporary file at worst.
//
// Nothing is cached, and several processes may serve one directory. A put that asks for absence is decided by link(2).
// All other changes of one key take turns by flock(2) on one of a few lock files below ".locks". What processes on
// different machines see of each other's writes is what the network file system promises: it needs hard links, atomic
// renames, locks and close-to-open consistency, which NFS has. Keys that differ only in case need a file system that
// tells them apart.
package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

const (
	objectsDir = "objects"
	tmpDir     = ".tmp"
	locksDir   = ".locks"

	dirMode  = 0o700
	fileMode = 0o600

	// lockCount is how many keys can change at the same moment, puts that ask for absence not counted.
	lockCount = 64

	// staleAfter is the age at which a temporary file cannot belong to a put that is still going on.
	staleAfter = 24 * time.Hour
)

// Bucket is a bucket.Bucket in a directory.
type Bucket struct {
	root *os.Root
	// turns keeps the goroutines of this process from each blocking a thread in flock.
	turns [lockCount]sync.Mutex
}

var _ bucket.Bucket = (*Bucket)(nil)

// New opens the bucket in the directory root, which is made when it is missing, and removes what killed processes left
// there more than a day ago. A directory that cannot be written to opens when it holds a bucket already, so that
// reading goes on. Errors name root: bucket.ErrFull, bucket.ErrReadOnly, bucket.ErrUnavailable.
func New(root string) (*Bucket, error) {
	if err := makeRoot(root); err != nil {
		return nil, notOpened(root, err)
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, notOpened(root, err)
	}
	b := &Bucket{root: r}
	if err := b.prepare(); err != nil {
		_ = r.Close()
		return nil, notOpened(root, err)
	}
	return b, nil
}

func notOpened(root string, err error) error {
	hint := ""
	if errors.Is(err, fs.ErrPermission) {
		hint = fmt.Sprintf(" (user %d of group %d must be allowed to read, write and search it)", os.Getuid(), os.Getgid())
	}
	return fmt.Errorf("%w%s", failed("open data directory", root, err, true), hint)
}

// makeRoot makes the directory and its missing parents, and makes them durable.
func makeRoot(root string) error {
	if info, err := os.Stat(root); err == nil && !info.IsDir() {
		return syscall.ENOTDIR
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(root, dirMode); err != nil {
		return err
	}
	absolute, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	for parent := filepath.Dir(absolute); ; parent = filepath.Dir(parent) {
		// A parent that may not be read was not made here.
		if d, err := os.Open(parent); err == nil { //nolint:gosec // The directory is the operator's to choose.
			err = d.Sync()
			_ = d.Close()
			if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.EROFS) {
				return err
			}
		}
		if parent == filepath.Dir(parent) {
			return nil
		}
	}
}

// prepare makes what a bucket needs beforehand, so that deleting works when the disk is full.
func (b *Bucket) prepare() error {
	mkdirErr := b.root.MkdirAll(objectsDir, dirMode)
	objects, err := b.root.Open(objectsDir)
	if err != nil {
		if mkdirErr != nil {
			return mkdirErr
		}
		return err
	}
	defer objects.Close()
	if _, err := objects.Readdirnames(1); err != nil && !isEOF(err) {
		return err
	}
	if mkdirErr != nil || b.syncDir(".") != nil {
		return nil
	}
	for i := range lockCount {
		f, err := b.openLock(i)
		if err != nil {
			break
		}
		_ = f.Close()
	}
	b.removeStale()
	return nil
}

// removeStale removes the temporary files of processes that were killed.
func (b *Bucket) removeStale() {
	d, err := b.root.Open(tmpDir)
	if err != nil {
		return
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(1000)
		for _, name := range names {
			name = path.Join(tmpDir, name)
			if info, err := b.root.Lstat(name); err == nil && time.Since(info.ModTime()) > staleAfter {
				_ = b.root.Remove(name)
			}
		}
		if err != nil {
			return
		}
	}
}

// openLock opens a lock file, which stays for ever: removing one would let two processes lock different files.
func (b *Bucket) openLock(i int) (*os.File, error) {
	return b.openIn(locksDir, strconv.Itoa(i), os.O_RDWR|os.O_CREATE)
}

// openIn opens a file in a directory of the root, which is made when it is missing.
func (b *Bucket) openIn(dir, name string, flag int) (*os.File, error) {
	name = path.Join(dir, name)
	f, err := b.root.OpenFile(name, flag, fileMode)
	if errors.Is(err, fs.ErrNotExist) {
		if err := b.root.MkdirAll(dir, dirMode); err != nil {
			return nil, err
		}
		f, err = b.root.OpenFile(name, flag, fileMode)
	}
	return f, err
}

// lock waits until no goroutine of any process changes key otherwise than by a put that asks for absence.
func (b *Bucket) lock(key string) (unlock func(), err error) {
	i := lockOf(key)
	b.turns[i].Lock()
	f, err := b.openLock(i)
	if err == nil {
		err = flock(f)
	}
	if err != nil {
		if f != nil {
			_ = f.Close()
		}
		b.turns[i].Unlock()
		return nil, err
	}
	return func() {
		_ = f.Close()
		b.turns[i].Unlock()
	}, nil
}

func flock(f *os.File) error {
	for {
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// syncDir makes the names in a directory durable. A directory that is gone needs nothing.
func (b *Bucket) syncDir(name string) error {
	d, err := b.root.Open(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	defer d.Close()
	// Some network file systems have no fsync for directories: their servers are synchronous.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// syncAbove makes the name of an object durable, and those of all directories above it: another put, which may have
// made them, need not have synced them yet. A directory without news costs next to nothing to sync.
func (b *Bucket) syncAbove(name string) error {
	for name != objectsDir {
		name = path.Dir(name)
		if err := b.syncDir(name); err != nil {
			return err
		}
	}
	return nil
}

// failed wraps an error of the operating system in the bucket's own. Only the key is named: paths of the host are of
// no use to clients, who see these texts.
func failed(doing, key string, err error, writing bool) error {
	var pathError *fs.PathError
	var linkError *os.LinkError
	switch {
	case errors.As(err, &pathError):
		err = pathError.Err
	case errors.As(err, &linkError):
		err = linkError.Err
	}
	kind := bucket.ErrUnavailable
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		kind = bucket.ErrFull
	case writing && (errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)):
		kind = bucket.ErrReadOnly
	}
	return fmt.Errorf("%s %s: %w: %w", doing, key, kind, err)
}
