//go:build !linux

package dir

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// searchFlags open a directory to go on from there, statFlags anything to describe it.
	searchFlags = unix.O_RDONLY
	statFlags   = unix.O_RDONLY | unix.O_NONBLOCK
)

var openBeneath = openStepwise

func openUnnamed(int, string) (int, error) { return -1, unix.EOPNOTSUPP }

func featuresOf(int) features { return features{} }

func identify(fd int) (identity, error) {
	var s unix.Stat_t
	err := unix.Fstat(fd, &s)
	return identity{device: uint64(s.Dev), inode: s.Ino}, err //nolint:gosec // Compared only with its like.
}

func modified(s *unix.Stat_t) time.Time { return time.Unix(s.Mtim.Unix()) }

func changed(s *unix.Stat_t) time.Time { return time.Unix(s.Ctim.Unix()) }

func setTimes(_, dir int, name string, now time.Time) error {
	stamp := unix.NsecToTimespec(now.UnixNano())
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{stamp, stamp}, unix.AT_SYMLINK_NOFOLLOW)
}

func startWriting(int, int64, int64) {}

// eachName calls f with the names in an open directory until f returns false.
func eachName(fd int, f func(name []byte, kind byte) bool) error {
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(again), "")
	defer d.Close()
	for {
		entries, err := d.ReadDir(1000)
		for _, e := range entries {
			kind := byte(unix.DT_UNKNOWN)
			switch {
			case e.Type().IsRegular():
				kind = unix.DT_REG
			case e.IsDir():
				kind = unix.DT_DIR
			}
			if !f([]byte(e.Name()), kind) {
				return nil
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
