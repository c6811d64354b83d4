package dir

import (
	"errors"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// directory is an open directory of the bucket.
type directory struct {
	fd int
	// name is its path below the root.
	name string
	id   identity
}

// identity tells a directory from every other one, also from one that has taken the place, and perhaps the inode, of a
// removed one. Where the time of birth is not known, as on NFS, the server makes directories durable by itself.
type identity struct {
	device, inode uint64
	// born is in nanoseconds.
	born int64
}

func (d *directory) close() { _ = unix.Close(d.fd) }

// directory opens a directory, and makes it if asked to, and those above it.
func (b *Bucket) directory(name string, create bool) (*directory, error) {
	for tries := 0; ; tries++ {
		fd, err := b.beneath(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err == nil {
			id, err := identify(fd)
			if err != nil {
				_ = unix.Close(fd)
				return nil, err
			}
			return &directory{fd: fd, name: name, id: id}, nil
		}
		if !create || !errors.Is(err, unix.ENOENT) || tries == maxTries {
			return nil, err
		}
		parent, err := b.directory(path.Dir(name), name != ".")
		if err != nil {
			return nil, err
		}
		err = b.system.Mkdir(parent.fd, path.Base(name))
		parent.close()
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOENT) {
			return nil, err
		}
	}
}

// openStepwise opens what is below a directory without following symbolic links, where the kernel cannot do that in
// one call.
func openStepwise(dir int, name string, flags int, mode uint32) (int, error) {
	for at := dir; ; {
		first, rest, more := strings.Cut(name, "/")
		step, stepMode := flags, mode
		if more {
			step, stepMode = searchFlags|unix.O_DIRECTORY, 0
		}
		fd, err := unix.Openat(at, first, step|unix.O_NOFOLLOW|unix.O_CLOEXEC, stepMode)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if at != dir {
			_ = unix.Close(at)
		}
		if err != nil || !more {
			return fd, err
		}
		at, name = fd, rest
	}
}

// pathOf names an open file.
func pathOf(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
