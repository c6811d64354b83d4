package dir

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
)

// maxPage is the most that one page of a listing has.
const maxPage = 1000

// List implements bucket.Bucket. Its memory is bounded by the page, not by the directory; a page of a directory with
// very many names still reads all of them.
func (b *Bucket) List(ctx context.Context, o bucket.ListOptions) (bucket.Page, error) {
	if o.Delimiter != "" && o.Delimiter != "/" {
		return bucket.Page{}, fmt.Errorf("list %s: the delimiter %q is not supported", o.Prefix, o.Delimiter)
	}
	if o.Limit <= 0 || o.Limit > maxPage {
		o.Limit = maxPage
	}
	l := &lister{ListOptions: o}
	base := o.Prefix[:strings.LastIndexByte(o.Prefix, '/')+1]
	if !isBase(base) {
		return bucket.Page{}, nil
	}
	if err := l.walk(ctx, b.root, path.Join(objectsDir, base), base); err != nil {
		return bucket.Page{}, err
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
	for _, i := range l.found {
		if strings.HasSuffix(i.Key, "/") {
			p.Prefixes = append(p.Prefixes, i.Key)
		} else {
			p.Objects = append(p.Objects, i)
		}
	}
	return p
}

// wanted is true for the key of an object in the listing, and for a directory (ending in a slash) that is folded into
// the listing or may hold keys of it.
func (l *lister) wanted(key string) bool {
	if !strings.HasPrefix(key, l.Prefix) {
		return false
	}
	if strings.HasSuffix(key, "/") && l.Delimiter == "" {
		return key > l.StartAfter || strings.HasPrefix(l.StartAfter, key)
	}
	return key > l.StartAfter
}

// walk adds what is wanted below a directory, whose keys begin with base.
func (l *lister) walk(ctx context.Context, parent *os.Root, name, base string) error {
	root, err := openDir(parent, name)
	if root == nil || err != nil {
		if err == nil {
			return nil
		}
		return failed("list", base, err, false)
	}
	defer func() { _ = root.Close() }()
	for last := ""; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		// Directories may turn out to be empty, so a batch that is used up need not have filled the page.
		batch := l.Limit + 1 - len(l.found)
		names, err := l.smallest(root, base, last, batch)
		if err != nil {
			return failed("list", base, err, false)
		}
		for _, name := range names {
			if err := l.visit(ctx, root, name, base); err != nil {
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

// openDir returns nil without an error where there is no directory, or none any more.
func openDir(parent *os.Root, name string) (*os.Root, error) {
	root, err := parent.OpenRoot(name)
	if err == nil || isMissing(err) {
		return root, nil
	}
	// What OpenRoot says of a file cannot be told from other errors.
	if info, statErr := parent.Lstat(name); isMissing(statErr) || statErr == nil && !info.IsDir() {
		return nil, nil
	}
	return nil, err
}

// visit adds one name of a directory: an object, a common prefix, or what is below it.
func (l *lister) visit(ctx context.Context, root *os.Root, name, base string) error {
	key := base + name
	entry, isDir := strings.CutSuffix(name, "/")
	if isDir && l.Delimiter == "" {
		return l.walk(ctx, root, entry, key)
	}
	if isDir {
		some, err := holdsObject(root, entry)
		if err != nil {
			return failed("list", key, err, false)
		}
		if some {
			l.found = append(l.found, bucket.Info{Key: key})
		}
		return nil
	}
	info, err := root.Lstat(entry)
	if err != nil {
		if isMissing(err) {
			return nil
		}
		return failed("list", key, err, false)
	}
	l.found = append(l.found, describe(key, info))
	return nil
}

// smallest returns the n names of a directory that come first in the listing, behind last. Names of directories end
// in a slash, since that is how their keys compare: "a-b" is before "a/b". A directory that is removed meanwhile, as
// deletes do with empty ones, has none.
func (l *lister) smallest(root *os.Root, base, last string, n int) ([]string, error) {
	d, err := root.Open(".")
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var names []string
	for {
		entries, err := d.ReadDir(maxPage)
		for _, e := range entries {
			name := e.Name()
			if bucket.CheckKey(name) != nil || !e.IsDir() && !e.Type().IsRegular() {
				continue
			}
			if e.IsDir() {
				name += "/"
			}
			if name > last && l.wanted(base+name) {
				names = append(names, name)
			}
		}
		if len(names) > n {
			slices.Sort(names)
			names = names[:n]
		}
		if isEOF(err) || isMissing(err) {
			slices.Sort(names)
			return names, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// holdsObject is false for directories that a put made and did not get to use.
func holdsObject(parent *os.Root, name string) (bool, error) {
	root, err := openDir(parent, name)
	if root == nil || err != nil {
		return false, err
	}
	defer func() { _ = root.Close() }()
	d, err := root.Open(".")
	if isMissing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(16)
		for _, e := range entries {
			if e.Type().IsRegular() {
				return true, nil
			}
			if !e.IsDir() {
				continue
			}
			if some, err := holdsObject(root, e.Name()); some || err != nil {
				return some, err
			}
		}
		if isEOF(err) || isMissing(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}
