package dir_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path"
	"runtime"
	"slices"
	"sync"

	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"golang.org/x/sys/unix"
)

// disk is a model of what a disk has of a bucket's directory. A file's content is on it once the file is synced, and a
// name, or that a name is gone, once its directory is. Of all else any part may be on it, or none, when the machine
// stops. The calls are done as usual, apart from syncing.
type disk struct {
	dir.System
	// changed is called after each call that had an effect, by the caller of that, one at a time.
	changed func(call string)
	// forgetful disks take a sync for done that is not.
	forgetsFiles, forgetsNames bool

	mu    sync.Mutex
	root  *node
	nodes map[uint64]*node
}

// node is a file or a directory.
type node struct {
	isDir bool
	// content is what was written to a file, of which durable was synced; nil is never synced.
	content, durable []byte
	// names are those of a directory that are durable, and pending what was changed since.
	names   map[string]*node
	pending []change
}

// change gives a name to a node, or takes it away where that is nil.
type change struct {
	name string
	node *node
}

func newDisk(root string) (*disk, error) {
	d := &disk{System: dir.Kernel, nodes: map[uint64]*node{}, root: newDir(), changed: func(string) {}}
	var s unix.Stat_t
	if err := unix.Stat(root, &s); err != nil {
		return nil, err
	}
	d.nodes[s.Ino] = d.root
	return d, nil
}

func newDir() *node { return &node{isDir: true, names: map[string]*node{}} }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// at finds the node of an open file, or of a name below it.
func (d *disk) at(fd int, name string) *node { return d.nodes[inodeAt(fd, name)] }

func inodeAt(fd int, name string) uint64 {
	var s unix.Stat_t
	if name == "" {
		must(unix.Fstat(fd, &s))
	} else {
		must(unix.Fstatat(fd, name, &s, unix.AT_SYMLINK_NOFOLLOW))
	}
	return s.Ino
}

func (d *disk) note(fd int, name string, n *node) {
	parent := d.at(fd, path.Dir(name))
	parent.pending = append(parent.pending, change{path.Base(name), n})
}

func (d *disk) Create(fd int, name string) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	created, err := d.System.Create(fd, name)
	if err == nil {
		n := &node{}
		d.nodes[inodeAt(created, "")] = n
		d.note(fd, name, n)
		d.changed("create")
	}
	return created, err
}

func (d *disk) CreateUnnamed(fd int, name string) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	created, err := d.System.CreateUnnamed(fd, name)
	if err == nil {
		d.nodes[inodeAt(created, "")] = &node{}
	}
	return created, err
}

func (d *disk) Write(fd int, p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.System.Write(fd, p)
	if n > 0 {
		file := d.at(fd, "")
		file.content = append(slices.Clone(file.content), p[:n]...)
		d.changed("write")
	}
	return n, err
}

// Sync makes durable what was there when it began.
func (d *disk) Sync(fd int) error {
	d.mu.Lock()
	n := d.at(fd, "")
	content, count := n.content, len(n.pending)
	d.mu.Unlock()
	// Others go on while the disk works.
	for range rand.IntN(200) {
		runtime.Gosched()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case n.isDir && !d.forgetsNames:
		n.names = n.with(count, func(change) bool { return true })
		n.pending = n.pending[count:]
	case !n.isDir && !d.forgetsFiles:
		n.durable = append([]byte{}, content...)
	}
	d.changed("sync")
	return nil
}

func (d *disk) Mkdir(fd int, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.System.Mkdir(fd, name)
	if err == nil {
		n := newDir()
		d.nodes[inodeAt(fd, name)] = n
		d.note(fd, name, n)
		d.changed("mkdir")
	}
	return err
}

func (d *disk) Link(fd, fromDir int, from string, toDir int, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.System.Link(fd, fromDir, from, toDir, to)
	if err == nil {
		d.note(toDir, to, d.at(toDir, to))
		d.changed("link")
	}
	return err
}

func (d *disk) Rename(fromDir int, from string, toDir int, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.System.Rename(fromDir, from, toDir, to)
	if err == nil {
		d.note(toDir, to, d.at(toDir, to))
		d.note(fromDir, from, nil)
		d.changed("rename")
	}
	return err
}

func (d *disk) Unlink(fd int, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.System.Unlink(fd, name)
	if err == nil {
		d.note(fd, name, nil)
		d.changed("unlink")
	}
	return err
}

func (d *disk) Rmdir(fd int, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.System.Rmdir(fd, name)
	if err == nil {
		d.note(fd, name, nil)
		d.changed("rmdir")
	}
	return err
}

// with returns the names of a directory after those of the first count changes that survive.
func (n *node) with(count int, survives func(change) bool) map[string]*node {
	names := make(map[string]*node, len(n.names)+count)
	for name, child := range n.names {
		names[name] = child
	}
	for _, c := range n.pending[:count] {
		switch {
		case !survives(c):
		case c.node == nil:
			delete(names, c.name)
		default:
			names[c.name] = c.node
		}
	}
	return names
}

// remains says what of all that was not synced is there after a crash: nothing, everything, or what chance decides.
type remains struct {
	all    bool
	chance *rand.Rand
}

func (r remains) changes(n *node) map[string]*node {
	return n.with(len(n.pending), func(change) bool { return r.all || r.chance != nil && r.chance.IntN(2) == 0 })
}

func (r remains) file(n *node) []byte {
	switch {
	case len(n.durable) == len(n.content) && n.durable != nil || r.all:
		return n.content
	case r.chance == nil || r.chance.IntN(4) == 0:
		return n.durable
	case r.chance.IntN(3) == 0:
		// The length was written, the bytes were not.
		return append(slices.Clone(n.durable), make([]byte, len(n.content)-len(n.durable))...)
	}
	return n.content[:len(n.durable)+r.chance.IntN(len(n.content)-len(n.durable)+1)]
}

// files returns the files that are below a directory after a crash, by their paths, and directories with a nil content.
func (d *disk) files(r remains) map[string][]byte {
	found := map[string][]byte{}
	var walk func(n *node, at string)
	walk = func(n *node, at string) {
		for name, child := range r.changes(n) {
			if child.isDir {
				found[path.Join(at, name)] = nil
				walk(child, path.Join(at, name))
			} else {
				found[path.Join(at, name)] = append([]byte{}, r.file(child)...)
			}
		}
	}
	walk(d.root, "")
	return found
}

// restore writes files to a directory.
func restore(root string, files map[string][]byte) error {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		to := path.Join(root, name)
		if files[name] == nil {
			if err := os.Mkdir(to, 0o700); err != nil {
				return err
			}
			continue
		}
		if err := os.WriteFile(to, files[name], 0o600); err != nil {
			return err
		}
	}
	return nil
}

// lazy is a System that syncs nothing, for what need not survive anything.
type lazy struct{ dir.System }

func (lazy) Sync(int) error { return nil }

func sameBytes(list [][]byte, b []byte) bool {
	return slices.ContainsFunc(list, func(one []byte) bool { return bytes.Equal(one, b) && (one == nil) == (b == nil) })
}
