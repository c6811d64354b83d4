package dir

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"golang.org/x/sys/unix"
)

const (
	// maxPage is the most that one page of a listing has, and maxNames that of one of names only.
	maxPage  = 1000
	maxNames = 20_000
)

// List implements bucket.Bucket. Its memory is bounded by the page, not by the directory; a page of a directory with
// very many names still reads all of them.
func (b *Bucket) List(ctx context.Context, o bucket.ListOptions) (bucket.Page, error) {
	if o.Delimiter != "" && o.Delimiter != "/" {
		return bucket.Page{}, fmt.Errorf("list %s: the delimiter %q is not supported", o.Prefix, o.Delimiter)
	}
	most := maxPage
	if o.NamesOnly {
		most = maxNames
	}
	if o.Limit <= 0 || o.Limit > most {
		o.Limit = most
	}
	l := &lister{ListOptions: o}
	base := o.Prefix[:strings.LastIndexByte(o.Prefix, '/')+1]
	if !isBase(base) {
		return bucket.Page{}, nil
	}
	fd, err := b.beneath(path.Join(objectsDir, base), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == nil {
		defer func() { _ = unix.Close(fd) }()
		err = l.walk(ctx, fd, base)
	} else if isMissing(err) {
		return bucket.Page{}, nil
	}
	if err != nil {
		if ctx.Err() != nil {
			return bucket.Page{}, ctx.Err()
		}
		return bucket.Page{}, failed("list", o.Prefix, err, false)
	}
	return l.page(), nil
}

// isBase is false for what no key begins with.
func isBase(base string) bool {
	return base == "" || bucket.CheckKey(strings.TrimSuffix(base, "/")) == nil
}

// lister collects, in order, one more than a page holds, to know whether there is more.
type lister struct {
	bucket.ListOptions
	found []bucket.Info // Common prefixes have a key that ends in a slash, and no ETag.
}

func (l *lister) page() bucket.Page {
	var p bucket.Page
	if len(l.found) > l.Limit {
		l.found = l.found[:l.Limit]
		p.Next = l.found[l.Limit-1].Key
	}
	if l.Delimiter == "" {
		p.Objects = l.found
		return p
	}
	for _, i := range l.found {
		if strings.HasSuffix(i.Key, "/") {
			p.Prefixes = append(p.Prefixes, i.Key)
		} else {
			p.Objects = append(p.Objects, i)
		}
	}
	return p
}

// wanted are the names of a directory that a listing may have: those that begin with prefix, and are greater than
// after, or, for directories to be gone through, may have such keys in them.
type wanted struct {
	prefix, after string
	whole         bool // Directories are gone through, not folded.
}

// below says what is wanted of a directory whose keys begin with base. What of the prefix, or of the key to start
// behind, is not below base, decides before about all or nothing.
func (l *lister) below(base string) (w wanted, none bool) {
	w = wanted{whole: l.Delimiter == ""}
	if rest, ok := strings.CutPrefix(l.Prefix, base); ok {
		w.prefix = rest
	}
	if rest, ok := strings.CutPrefix(l.StartAfter, base); ok {
		w.after = rest
	} else if l.StartAfter > base {
		return w, true
	}
	return w, false
}

func (w wanted) has(name string) bool {
	if !strings.HasPrefix(name, w.prefix) {
		return false
	}
	return name > w.after || w.whole && strings.HasSuffix(name, "/") && strings.HasPrefix(w.after, name)
}

// walk adds what is wanted of a directory, whose keys begin with base.
func (l *lister) walk(ctx context.Context, fd int, base string) error {
	w, none := l.below(base)
	if none {
		return nil
	}
	for last := ""; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		// Directories may turn out to be empty, so a batch that is used up need not have filled the page.
		batch := l.Limit + 1 - len(l.found)
		names, err := smallest(fd, w, last, batch)
		if err != nil {
			return err
		}
		l.found = slices.Grow(l.found, len(names))
		for _, name := range names {
			if err := l.visit(ctx, fd, name, base); err != nil {
				return err
			}
			if len(l.found) > l.Limit {
				return nil
			}
			last = name
		}
		if len(names) < batch {
			return nil
		}
	}
}

// visit adds one name of a directory: an object, a common prefix, or what is below it.
func (l *lister) visit(ctx context.Context, parent int, name, base string) error {
	entry, isDir := strings.CutSuffix(name, "/")
	switch {
	case isDir && l.Delimiter == "":
		fd, err := openStepwise(parent, entry, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if isMissing(err) {
			return nil
		}
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		return l.walk(ctx, fd, base+name)
	case isDir:
		some, err := holdsObject(parent, entry)
		if some {
			l.found = append(l.found, bucket.Info{Key: base + name})
		}
		return err
	case l.NamesOnly:
		l.found = append(l.found, bucket.Info{Key: base + name})
		return nil
	}
	var s unix.Stat_t
	err := unix.Fstatat(parent, entry, &s, unix.AT_SYMLINK_NOFOLLOW)
	if isMissing(err) {
		return nil
	}
	if err == nil && s.Mode&unix.S_IFMT == unix.S_IFREG {
		l.found = append(l.found, describe(base+name, &s))
	}
	return err
}

// smallest returns the n names of a directory that come first in the listing, behind last. Names of directories end
// in a slash, since that is how their keys compare: "a-b" is before "a/b". A directory that is removed meanwhile has
// none.
func smallest(fd int, w wanted, last string, n int) ([]string, error) {
	var names []string
	full := false
	err := eachEntry(fd, func(e entry) bool {
		name := e.name
		if e.isDir {
			name += "/"
		}
		// Once there are enough, the greatest of them bounds what may still come.
		if name <= last || full && name >= names[n-1] || !w.has(name) {
			return true
		}
		names = append(names, name)
		if len(names) >= 2*n+maxPage {
			slices.Sort(names)
			names, full = names[:n], true
		}
		return true
	})
	slices.Sort(names)
	return names[:min(n, len(names))], err
}

// holdsObject is false for directories that have no objects any more, or none yet.
func holdsObject(parent int, name string) (bool, error) {
	fd, err := openStepwise(parent, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if isMissing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(fd) }()
	found := false
	var inner error
	err = eachEntry(fd, func(e entry) bool {
		if found = !e.isDir; !found {
			found, inner = holdsObject(fd, e.name)
		}
		return !found && inner == nil
	})
	if err == nil {
		err = inner
	}
	return found, err
}

// entry is a name in a directory.
type entry struct {
	name  string
	isDir bool
}

// eachEntry calls f with each object and directory of an open directory, until f returns false. All else, which
// somebody must have put there, is left out.
func eachEntry(fd int, f func(entry) bool) error {
	return eachName(fd, func(name []byte, kind byte) bool {
		if len(name) == 0 || name[0] == '.' && (len(name) == 1 || len(name) == 2 && name[1] == '.') {
			return true
		}
		e := entry{name: string(name)}
		if kind == unix.DT_UNKNOWN {
			kind = kindOf(fd, e.name)
		}
		e.isDir = kind == unix.DT_DIR
		if !e.isDir && kind != unix.DT_REG || bucket.CheckKey(e.name) != nil {
			return true
		}
		return f(e)
	})
}

// kindOf is for file systems that do not say it in their directories.
func kindOf(fd int, name string) byte {
	var s unix.Stat_t
	if unix.Fstatat(fd, name, &s, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return unix.DT_UNKNOWN
	}
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return unix.DT_REG
	case unix.S_IFDIR:
		return unix.DT_DIR
	}
	return unix.DT_UNKNOWN
}

// readNames returns all objects and directories of a directory of which there are few.
func readNames(fd int) ([]entry, error) {
	var entries []entry
	err := eachEntry(fd, func(e entry) bool {
		entries = append(entries, e)
		return true
	})
	return entries, err
}
