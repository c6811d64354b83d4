package dir

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// searchFlags open a directory to go on from there, statFlags anything to describe it.
	searchFlags = unix.O_PATH
	statFlags   = unix.O_PATH

	zfsMagic = 0x2fc12fc1
)

// openBeneath opens what is below a directory, without following symbolic links.
func openBeneath(dir int, name string, flags int, mode uint32) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC), //nolint:gosec // Flags are not negative.
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, name, &how)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
			// Kernels before 5.6, and sandboxes that do not know the call.
			return openStepwise(dir, name, flags, mode)
		default:
			return fd, err
		}
	}
}

func openUnnamed(dir int, name string) (int, error) {
	return openBeneath(dir, name, unix.O_WRONLY|unix.O_TMPFILE, fileMode)
}

// featuresOf knows the common file systems, by what statfs(2) calls them. Btrfs is not to be trusted with unnamed
// files: it does not log those when they are synced, and would bring them back empty.
func featuresOf(fd int) features {
	var s unix.Statfs_t
	if err := interrupted(func() error { return unix.Fstatfs(fd, &s) }); err != nil {
		return features{}
	}
	switch s.Type {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.TMPFS_MAGIC:
		return features{local: true, unnamed: true}
	case unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, zfsMagic:
		return features{local: true}
	}
	return features{}
}

func identify(fd int) (identity, error) {
	var s unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &s); err != nil {
		var old unix.Stat_t
		err := unix.Fstat(fd, &old)
		return identity{device: old.Dev, inode: old.Ino}, err
	}
	id := identity{device: unix.Mkdev(s.Dev_major, s.Dev_minor), inode: s.Ino}
	if s.Mask&unix.STATX_BTIME != 0 {
		id.born = s.Btime.Sec*int64(time.Second) + int64(s.Btime.Nsec)
	}
	return id, nil
}

func modified(s *unix.Stat_t) time.Time { return time.Unix(s.Mtim.Unix()) }

func changed(s *unix.Stat_t) time.Time { return time.Unix(s.Ctim.Unix()) }

// setTimes sets the time of writing of an open file, which has the name where that is not empty.
func setTimes(fd, dir int, name string, now time.Time) error {
	at, flags := dir, unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		at, name, flags = unix.AT_FDCWD, pathOf(fd), 0
	}
	stamp := unix.NsecToTimespec(now.UnixNano())
	return unix.UtimesNanoAt(at, name, []unix.Timespec{stamp, stamp}, flags)
}

// startWriting tells the kernel to begin with the disk's part of a large file. It is only a hint.
func startWriting(fd int, offset, length int64) {
	_ = unix.SyncFileRange(fd, offset, length, unix.SYNC_FILE_RANGE_WRITE)
}

// direntHeader is what precedes a name in what getdents64(2) yields: inode, offset, length and type.
const direntHeader = 8 + 8 + 2 + 1

// eachName calls f with the names in an open directory until f returns false. The bytes are good for that call only.
func eachName(fd int, f func(name []byte, kind byte) bool) error {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return err
	}
	// Often the first name is all that is asked for.
	for buffer := make([]byte, 1<<10); ; buffer = grown(buffer) {
		n, err := unix.ReadDirent(fd, buffer)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOENT): // Removed meanwhile.
			return nil
		case err != nil:
			return err
		case n <= 0:
			return nil
		}
		for rest := buffer[:n]; len(rest) >= direntHeader; {
			length := int(binary.NativeEndian.Uint16(rest[16:]))
			if length < direntHeader || length > len(rest) {
				return unix.EIO
			}
			name := rest[direntHeader:length]
			for i, c := range name {
				if c == 0 {
					name = name[:i]
					break
				}
			}
			if !f(name, rest[18]) {
				return nil
			}
			rest = rest[length:]
		}
	}
}

// grown is a buffer for the many names that are behind the first few.
func grown(buffer []byte) []byte {
	const many = 32 << 10
	if len(buffer) == many {
		return buffer
	}
	return make([]byte, many)
}
