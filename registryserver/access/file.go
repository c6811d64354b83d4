package access

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// lockTimeout is how long an edit waits for another program's.
const lockTimeout = 10 * time.Second

// ReadFile reads the access snapshot in a file. Errors: fs.ErrNotExist, a document that cannot be read or is larger
// than wire.MaxAccessBytes, and one that Compile refuses.
func ReadFile(path string) (wire.Access, error) {
	data, err := readBounded(path)
	if err != nil {
		return wire.Access{}, err
	}
	a, err := wire.DecodeAccess(data)
	if err == nil {
		_, err = Compile(a)
	}
	if err != nil {
		return wire.Access{}, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

// EditFile changes the access snapshot in a file with edit, raises its revision by one, and writes it whole or not at
// all. Where there is no file, edit gets an empty, private snapshot and the file is created with mode 0600; otherwise
// its mode and owner stay. Two programs that edit at once lose nothing: the second waits up to 10 seconds for the
// first. An error of edit is returned and nothing is written.
func EditFile(path string, edit func(*wire.Access) error) error {
	// A link to the file stays a link.
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	unlock, err := lock(path + ".lock")
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the folder %s of the access file: %w", filepath.Dir(path), fs.ErrNotExist)
	} else if err != nil {
		return fmt.Errorf("locking the access file: %w", err)
	}
	defer unlock()
	a, err := ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		a = wire.Access{Visibility: wire.Private}
	} else if err != nil {
		return fmt.Errorf("reading the access file: %w", err)
	}
	if err := edit(&a); err != nil {
		return err
	}
	a.Revision++
	if _, err := Compile(a); err != nil {
		return err
	}
	data := a.Encode()
	if len(data) > wire.MaxAccessBytes {
		return fmt.Errorf("the access file would have %d bytes, more than the %d allowed: revoke tokens that are not needed", len(data), wire.MaxAccessBytes)
	}
	if err := replaceFile(path, data); err != nil {
		return fmt.Errorf("writing the access file: %w", err)
	}
	return nil
}

// readBounded reads a regular file of at most wire.MaxAccessBytes, and one byte more when it is larger, so that the
// decoder says so.
func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path) //nolint:gosec // The path is the administrator's own.
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, wire.MaxAccessBytes+1))
}

// replaceFile puts data at path so that after a crash there is either the old content or the new one, and after it
// returns the new one. Mode and owner of an existing file stay; a new one has mode 0600. Callers keep others away.
func replaceFile(path string, data []byte) (err error) {
	temporary := path + ".tmp"
	// Left over when an earlier program was killed here, perhaps with another mode.
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // As above.
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(temporary)
		}
	}()
	if err := keepOwner(f, path); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// keepOwner gives f the owner and mode of the file at path, if there is one.
func keepOwner(f *os.File, path string) error {
	old, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	was, is := old.Sys().(*syscall.Stat_t), mine.Sys().(*syscall.Stat_t)
	if was.Uid != is.Uid || was.Gid != is.Gid {
		if err := f.Chown(int(was.Uid), int(was.Gid)); err != nil {
			return fmt.Errorf("keeping the owner of %s: %w", path, err)
		}
	}
	return f.Chmod(old.Mode().Perm())
}

func syncFolder(path string) error {
	folder, err := os.Open(path) //nolint:gosec // As above.
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}

// lock takes an exclusive lock that ends with the process, and returns what gives it back. The lock has a file of its
// own, as the file that it guards is replaced under it; that file is removed by who holds it, so it must be made sure
// after locking that it still is the one that others would lock.
func lock(path string) (unlock func(), err error) {
	for deadline := time.Now().Add(lockTimeout); ; {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // As above.
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil && isStill(path, f) {
			return func() {
				_ = os.Remove(path)
				_ = f.Close()
			}, nil
		}
		_ = f.Close()
		if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("another program has held %s for %v; try again when it is done", path, lockTimeout)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func isStill(path string, f *os.File) bool {
	there, err := os.Stat(path)
	if err != nil {
		return false
	}
	mine, err := f.Stat()
	return err == nil && os.SameFile(there, mine)
}
