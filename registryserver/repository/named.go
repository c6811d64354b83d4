package repository

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
)

// id is a digest in few bytes: those of the hash, whose number tells the algorithm.
type id string

// idOf expects a digest that checkDigest lets through.
func idOf(d digest.Digest) id {
	raw, _ := hex.DecodeString(d.Encoded())
	return id(raw)
}

func (i id) digest() digest.Digest {
	algorithm := digest.SHA256
	if len(i) > 32 {
		algorithm = digest.SHA512
	}
	return digest.NewDigestFromEncoded(algorithm, hex.EncodeToString([]byte(i)))
}

// facts are what garbage collection wants to know of a manifest. They follow from its content, and so from its digest.
type facts struct {
	// names are all digests that are written anywhere in the manifest, but for that of its subject.
	names []id
	// subject is empty for none.
	subject id
}

// factsOf reads a manifest of whatever type. A field that this program does not know may name a blob too, so every
// string counts that is a digest: what is spared in vain takes room, and what is not is lost.
func factsOf(content []byte) (facts, error) {
	var f facts
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(content, &fields); err != nil {
		return f, err
	}
	if value, ok := fields["subject"]; ok && string(value) != "null" {
		d, _, err := parseDescriptor("subject", value)
		if err != nil {
			return f, err
		}
		f.subject = idOf(d.digest)
	}
	delete(fields, "subject")
	seen := map[id]bool{}
	for _, value := range fields {
		decoder := json.NewDecoder(bytes.NewReader(value))
		for {
			token, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return f, err
			}
			d, _ := token.(string)
			if checkDigest(digest.Digest(d)) != nil {
				continue
			}
			if name := idOf(digest.Digest(d)); !seen[name] {
				seen[name] = true
				f.names = append(f.names, name)
			}
		}
	}
	return f, nil
}

// maxKnown bounds what is remembered, in bytes, so that the manifests of about 80,000 charts' versions need not be read
// again when they are looked at again.
const maxKnown = 16 << 20

// known remembers facts, and what tags stand for. The zero value is ready for use.
type known struct {
	mu sync.Mutex
	// young takes new ones; when it is full, it becomes old, and what was old is forgotten.
	young, old generation
}

type generation struct {
	manifests map[id]facts
	tags      map[string]knownTag
	size      int
}

// knownTag is what the tag with a key stands for as long as it has the ETag.
type knownTag struct {
	etag string
	to   id
}

func (k *known) manifest(of id) (facts, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f, ok := k.young.manifests[of]
	if !ok {
		if f, ok = k.old.manifests[of]; ok {
			k.addManifest(of, f)
		}
	}
	return f, ok
}

func (k *known) tag(key, etag string) (id, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	t, ok := k.young.tags[key]
	if !ok {
		if t, ok = k.old.tags[key]; ok {
			k.addTag(key, t)
		}
	}
	return t.to, ok && etag != "" && t.etag == etag
}

func (k *known) setManifest(of id, f facts) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.addManifest(of, f)
}

func (k *known) setTag(key, etag string, to id) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.addTag(key, knownTag{etag, to})
}

func (k *known) addManifest(of id, f facts) {
	k.makeRoom(150 + 48*len(f.names))
	k.young.manifests[of] = f
}

func (k *known) addTag(key string, t knownTag) {
	k.makeRoom(120 + len(key) + len(t.etag))
	k.young.tags[key] = t
}

func (k *known) makeRoom(size int) {
	if k.young.size+size > maxKnown/2 || k.young.tags == nil {
		k.young, k.old = generation{manifests: map[id]facts{}, tags: map[string]knownTag{}}, k.young
	}
	k.young.size += size
}

// errUnreadable says that what is stored does not tell what it names, so that nothing can be called garbage.
var errUnreadable = errors.New("garbage collection leaves the chart alone")

// learn finds out what a manifest names, wherever it is. Errors: bucket.ErrNotFound, errUnreadable.
func (r *Repository) learn(ctx context.Context, of id) (facts, error) {
	if f, ok := r.s.learnt.manifest(of); ok {
		return f, nil
	}
	d := of.digest()
	var content []byte
	err := r.s.through(ctx, r.manifestKey(d), func(key string) error {
		object, info, err := r.s.read(ctx, key, maxHeaderBytes+MaxManifestBytes)
		if info.Size > maxHeaderBytes+MaxManifestBytes {
			object, err = nil, nil
		}
		_, content, _ = bytes.Cut(object, []byte{'\n'})
		return err
	})
	if err != nil {
		return facts{}, fmt.Errorf("read manifest %s: %w", d, err)
	}
	f, err := factsOf(content)
	if err != nil || d.Algorithm().FromBytes(content) != d {
		return facts{}, fmt.Errorf("%w: the manifest %s of %s is damaged: push it again to mend it, or delete it", errUnreadable, d, r.name)
	}
	r.s.learnt.setManifest(of, f)
	return f, nil
}
