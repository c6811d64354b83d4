// Package dir is a bucket in a directory, on a local disk or on a network file system.
//
// Objects are files below "objects", under their keys. A file appears there only complete and on disk: it is written
// and synced without a name, or under one in ".tmp", then linked or renamed into place, and the directory is synced. So
// a process that is killed, or a machine that loses power, leaves behind a temporary file at worst. Directories stay
// when they become empty: so what is once known to be durable of them, stays so.
//
// Nothing of an object is cached, and several processes may serve one directory. A put of a new object is decided by
// link(2). All other changes of one key take turns by flock(2) on one of a few lock files below ".locks". What processes
// on different machines see of each other's writes is what the network file system promises: it needs hard links,
// atomic renames, locks and close-to-open consistency, which NFS has. Keys that differ only in case need a file system
// that tells them apart.
package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"golang.org/x/sys/unix"
)

const (
	objectsDir = "objects"
	tmpDir     = ".tmp"
	locksDir   = ".locks"

	dirMode  = 0o700
	fileMode = 0o600

	// lockCount is how many keys can change at the same moment, puts of new objects not counted.
	lockCount = 64

	// staleAfter is the age at which a temporary file cannot belong to a put that is still going on.
	staleAfter = 24 * time.Hour
)

// Bucket is a bucket.Bucket in a directory.
type Bucket struct {
	root *os.File
	// open is openBeneath; the tests have the other one take its place.
	open     func(dir int, name string, flags int, mode uint32) (int, error)
	system   System
	features features
	syncs    *syncs
	buffers  sync.Pool
	// turns keeps the goroutines of this process from each blocking a thread in flock.
	turns [lockCount]sync.Mutex
}

var (
	_ bucket.Bucket    = (*Bucket)(nil)
	_ bucket.Versioner = (*Bucket)(nil)
	_ bucket.Comparer  = (*Bucket)(nil)
)

// features are what a file system is known to do beyond what every one does.
type features struct {
	// local: directories change for this machine only, which stamps them by its own clock.
	local bool
	// device is the file system's number.
	device uint64
	// unnamed: a file may be written and synced before it has its first name.
	unnamed bool
}

// New opens the bucket in the directory root, which is made when it is missing, and removes what killed processes left
// there more than a day ago. A directory that cannot be written to opens when it holds a bucket already, so that
// reading goes on. Errors name root: bucket.ErrFull, bucket.ErrReadOnly, bucket.ErrUnavailable.
func New(root string) (*Bucket, error) { return newOn(root, kernel{}) }

func newOn(root string, s System) (*Bucket, error) {
	if err := makeRoot(root); err != nil {
		return nil, notOpened(root, err)
	}
	r, err := os.Open(root) //nolint:gosec // The directory is the operator's to choose.
	if err != nil {
		return nil, notOpened(root, err)
	}
	b := &Bucket{root: r, open: openBeneath, system: s, syncs: newSyncs(s)}
	b.buffers.New = func() any { return new([bufferBytes]byte) }
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

// makeRoot makes the directory and its missing parents, and makes them durable. One that has objects has been through
// that.
func makeRoot(root string) error {
	if info, err := os.Stat(filepath.Join(root, objectsDir)); err == nil && info.IsDir() {
		return nil
	}
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
	writable := true
	for _, name := range []string{objectsDir, tmpDir, locksDir} {
		d, err := b.directory(name, true)
		if err == nil && name == objectsDir {
			_, err = readNames(d.fd)
			b.features = featuresOf(d.fd)
			b.features.device = d.id.device
		}
		if err == nil && writable {
			writable = b.syncNames(d) == nil
		}
		switch {
		case err == nil:
			d.close()
		case name == objectsDir:
			return err
		default:
			writable = false
		}
	}
	if !writable {
		return nil
	}
	for i := range lockCount {
		fd, err := b.openLock(i)
		if err != nil {
			break
		}
		_ = unix.Close(fd)
	}
	b.features.unnamed = b.features.unnamed && b.canName()
	b.removeStale()
	return nil
}

// canName tries out whether files can be named after they were written.
func (b *Bucket) canName() bool {
	fd, err := b.system.CreateUnnamed(b.rootFD(), tmpDir)
	if err != nil {
		return false
	}
	t := &temp{b: b, fd: fd}
	defer t.discard()
	return t.name() == nil
}

// removeStale removes the temporary files of processes that were killed.
func (b *Bucket) removeStale() {
	d, err := b.directory(tmpDir, false)
	if err != nil {
		return
	}
	defer d.close()
	entries, err := readNames(d.fd)
	if err != nil {
		return
	}
	for _, e := range entries {
		var s unix.Stat_t
		if unix.Fstatat(d.fd, e.name, &s, unix.AT_SYMLINK_NOFOLLOW) == nil && time.Since(modified(&s)) > staleAfter {
			_ = b.system.Unlink(d.fd, e.name)
		}
	}
}

func (b *Bucket) rootFD() int { return int(b.root.Fd()) }

// beneath opens what is below the root, without following any symbolic link on the way or at the end.
func (b *Bucket) beneath(name string, flags int, mode uint32) (int, error) {
	defer runtime.KeepAlive(b.root)
	return b.open(b.rootFD(), name, flags, mode)
}

// openLock opens a lock file, which stays for ever: removing one would let two processes lock different files.
func (b *Bucket) openLock(i int) (int, error) {
	name := locksDir + "/" + strconv.Itoa(i)
	fd, err := b.beneath(name, unix.O_RDWR|unix.O_CREAT, fileMode)
	if errors.Is(err, fs.ErrNotExist) {
		if d, err := b.directory(locksDir, true); err == nil {
			d.close()
		}
		fd, err = b.beneath(name, unix.O_RDWR|unix.O_CREAT, fileMode)
	}
	return fd, err
}

// lock waits until no goroutine of any process changes key otherwise than by a put of a new object.
func (b *Bucket) lock(key string) (unlock func(), err error) {
	i := lockOf(key)
	b.turns[i].Lock()
	fd, err := b.openLock(i)
	if err != nil {
		b.turns[i].Unlock()
		return nil, err
	}
	unlock = func() {
		_ = unix.Close(fd)
		b.turns[i].Unlock()
	}
	if err := interrupted(func() error { return unix.Flock(fd, unix.LOCK_EX) }); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// interrupted calls f again for as long as a signal interrupts it.
func interrupted(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// failed wraps an error of the operating system in the bucket's own. Only the key is named: paths of the host are of
// no use to clients, who see these texts.
func failed(doing, key string, err error, writing bool) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
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
