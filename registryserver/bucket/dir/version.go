package dir

import (
	"context"
	"path"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"golang.org/x/sys/unix"
)

// settled is the age of a directory's last change from which on the next one will be stamped with another time: some
// file systems count in seconds, and the best in ticks of the kernel's clock.
const settled = 2 * time.Second

// Version implements bucket.Versioner. It is the time at which the directory was last changed, once that is so long ago
// that no further change can bear the same stamp. On network file systems, whose attributes are cached and stamped by
// another clock, and on those that are not known, it is always empty.
func (b *Bucket) Version(ctx context.Context, prefix string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	name, ok := strings.CutSuffix(prefix, "/")
	if err := bucket.CheckKey(name); err != nil {
		return "", err
	}
	if !ok || !b.features.local {
		return "", nil
	}
	defer runtime.KeepAlive(b.root)
	fd, err := b.beneath(path.Join(objectsDir, name), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if isMissing(err) {
		return "", nil
	}
	if err != nil {
		return "", failed("list", prefix, err, false)
	}
	defer func() { _ = unix.Close(fd) }()
	// The clock is read first: a change after that is stamped with a later time.
	now := time.Now()
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		return "", failed("list", prefix, err, false)
	}
	id, err := identify(fd)
	if err != nil {
		return "", failed("list", prefix, err, false)
	}
	at := changed(&s)
	if id.device != b.features.device || now.Sub(at) < settled {
		return "", nil
	}
	some := false
	err = eachEntry(fd, func(e entry) bool {
		some = !e.isDir
		return !some
	})
	if err != nil {
		return "", failed("list", prefix, err, false)
	}
	if !some {
		return "", nil
	}
	return strconv.FormatUint(id.inode, 16) + "-" + strconv.FormatInt(at.UnixNano(), 16), nil
}
