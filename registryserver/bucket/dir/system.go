package dir

import "golang.org/x/sys/unix"

// System is the calls by which a bucket changes its file system. They are apart for the tests, which note them, and
// let them fail, to know what is left when a machine stops between any two.
type System interface {
	// Create makes a file under a name that is free, and opens it for writing.
	Create(dir int, name string) (fd int, err error)
	// CreateUnnamed makes a file without a name, in the file system of a directory, and opens it for writing.
	CreateUnnamed(dir int, name string) (fd int, err error)
	// Write writes some of p at the end of a file.
	Write(fd int, p []byte) (int, error)
	// Sync makes the content of a file, or the names in a directory, durable.
	Sync(fd int) error
	// Mkdir makes a directory.
	Mkdir(dir int, name string) error
	// Link gives a file one more name, which must be free. fd is negative, or the file itself, which has no name yet;
	// otherwise it is called from.
	Link(fd, fromDir int, from string, toDir int, to string) error
	// Rename moves a name, in place of what has that name already.
	Rename(fromDir int, from string, toDir int, to string) error
	// Unlink takes a file's name away.
	Unlink(dir int, name string) error
	// Rmdir removes a directory if it is empty.
	Rmdir(dir int, name string) error
}

// kernel is the System that is no test's.
type kernel struct{}

func (kernel) Create(dir int, name string) (int, error) {
	return openBeneath(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, fileMode)
}

func (kernel) CreateUnnamed(dir int, name string) (int, error) { return openUnnamed(dir, name) }

func (kernel) Write(fd int, p []byte) (int, error) { return unix.Write(fd, p) }

func (kernel) Sync(fd int) error { return unix.Fsync(fd) }

func (kernel) Mkdir(dir int, name string) error { return unix.Mkdirat(dir, name, dirMode) }

func (kernel) Link(fd, fromDir int, from string, toDir int, to string) error {
	if fd >= 0 {
		return unix.Linkat(unix.AT_FDCWD, pathOf(fd), toDir, to, unix.AT_SYMLINK_FOLLOW)
	}
	return unix.Linkat(fromDir, from, toDir, to, 0)
}

func (kernel) Rename(fromDir int, from string, toDir int, to string) error {
	return unix.Renameat(fromDir, from, toDir, to)
}

func (kernel) Unlink(dir int, name string) error { return unix.Unlinkat(dir, name, 0) }

func (kernel) Rmdir(dir int, name string) error { return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) }
