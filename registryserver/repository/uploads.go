package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strconv"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/opencontainers/go-digest"
)

const (
	// maxParts bounds the chunks of one upload.
	maxParts = 10_000

	// endedName is behind all parts in the order of keys.
	endedName = "ended"
)

// Upload is a session of an upload in chunks. Beginning one writes nothing: the id, which the caller makes
// unguessable and signs, is all there is until the first chunk.
//
// Each chunk is one object, named by its offset, and written only where none is: of two chunks at one offset, one wins.
type Upload struct {
	r  *Repository
	id string
}

// Upload returns the session with this id (1 to 64 characters of A-Z a-z 0-9 - _). A session with another id is
// unknown to all its methods.
func (r *Repository) Upload(id string) *Upload { return &Upload{r: r, id: id} }

// Offset is the number of bytes received so far, 0 for a session with no chunk yet. Error: ErrUploadUnknown when it
// was cancelled or, as far as can be told, finished.
func (u *Upload) Offset(ctx context.Context) (int64, error) {
	_, offset, err := u.parts(ctx)
	return offset, err
}

// Append adds a chunk that begins at offset; negative means "where the upload stands". size is negative when unknown.
// It returns the new offset. Errors: *OffsetError, ErrUploadUnknown, ErrTooLarge. A chunk that breaks off is not added.
func (u *Upload) Append(ctx context.Context, offset int64, chunk io.Reader, size int64) (int64, error) {
	parts, stands, err := u.begin(ctx, offset, size, false)
	if err != nil {
		return 0, err
	}
	if len(parts) >= maxParts {
		return 0, fmt.Errorf("%w: an upload may have at most %d chunks", ErrTooLarge, maxParts)
	}
	// What is stored of an upload counts only while it grows: nobody knows whether it will ever be finished.
	need := stands + size
	if size < 0 {
		need = stands + 1
	}
	room, err := u.r.s.reserve(ctx, need)
	if err != nil {
		return 0, err
	}
	defer room.Release()
	// A part without bytes would have the key that the next one needs.
	first := make([]byte, 1)
	if _, err := io.ReadFull(chunk, first); err == io.EOF && size <= 0 {
		return stands, nil
	} else if err == io.EOF {
		return 0, io.ErrUnexpectedEOF
	} else if err != nil {
		return 0, err
	}
	limited := &limiter{body: io.MultiReader(bytes.NewReader(first), chunk), read: stands, check: u.r.s.checkBlobSize}
	info, err := u.r.s.bucket.Put(ctx, u.key(fmt.Sprintf("%020d", stands)), room.Meter(limited, stands), size, bucket.Condition{Absent: true})
	if errors.Is(err, bucket.ErrExists) {
		if stands, err = u.Offset(ctx); err == nil {
			err = &OffsetError{Offset: stands}
		}
	}
	if err != nil {
		return 0, fmt.Errorf("store chunk: %w", err)
	}
	return stands + info.Size, nil
}

// Commit adds the last chunk (rest may be empty), stores the whole as the blob d, and ends the session. offset is as
// in Append. Errors: those of Append and of PutBlob; after ErrDigestMismatch the session is over, after others it
// stands where it stood.
func (u *Upload) Commit(ctx context.Context, d digest.Digest, offset int64, rest io.Reader, size int64) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	parts, stands, err := u.begin(ctx, offset, size, true)
	if err != nil {
		return err
	}
	whole := &partsReader{ctx: ctx, bucket: u.r.s.bucket, parts: parts}
	defer whole.Close()
	if size >= 0 {
		size += stands
	}
	err = u.r.PutBlob(ctx, d, io.MultiReader(whole, rest), size)
	if errors.Is(err, bucket.ErrNotFound) {
		return fmt.Errorf("%w: it was ended while it was being finished", ErrUploadUnknown)
	}
	if errors.Is(err, ErrDigestMismatch) || err == nil && len(parts) > 0 {
		// The blob is stored, or refused, whether or not its parts can be cleared away, and the client may be gone.
		_ = u.end(context.WithoutCancel(ctx), parts)
	}
	return err
}

// Cancel ends the session and removes what it stored. Error: ErrUploadUnknown.
func (u *Upload) Cancel(ctx context.Context) error {
	parts, _, err := u.parts(ctx)
	if err != nil {
		return err
	}
	return u.end(ctx, parts)
}

// end leaves a mark, so that the session does not seem new to whoever comes late, and removes the parts, also where
// there is no room for the mark.
func (u *Upload) end(ctx context.Context, parts []bucket.Info) error {
	err := u.r.s.write(ctx, u.key(endedName), []byte("{}"), bucket.Condition{})
	for _, p := range parts {
		err = errors.Join(err, u.r.s.bucket.Delete(ctx, p.Key, bucket.Condition{}))
	}
	if err != nil {
		return fmt.Errorf("end upload: %w", err)
	}
	return nil
}

func (u *Upload) key(name string) string { return u.r.key(uploadsSection, u.id, name) }

// begin finds out where the session stands and refuses a chunk, perhaps the last, that begins elsewhere or makes the blob
// too large.
func (u *Upload) begin(ctx context.Context, offset, size int64, last bool) (parts []bucket.Info, stands int64, err error) {
	parts, stands, err = u.parts(ctx)
	if err != nil {
		return nil, 0, err
	}
	if offset >= 0 && offset != stands {
		return nil, 0, &OffsetError{Offset: stands}
	}
	if size > math.MaxInt64-stands {
		return nil, 0, tooLarge("blob", u.r.s.o.MaxBlobBytes)
	}
	return parts, stands, u.r.s.checkBlobSize(stands+max(size, 0), last && size >= 0)
}

// parts lists the chunks, each of which begins where the one before it ends.
func (u *Upload) parts(ctx context.Context) (parts []bucket.Info, stands int64, err error) {
	if !uploadPattern.MatchString(u.id) {
		return nil, 0, ErrUploadUnknown
	}
	err = u.r.s.each(ctx, u.key(""), func(i bucket.Info) error {
		if strings.HasSuffix(i.Key, "/"+endedName) {
			return fmt.Errorf("%w: it was finished or cancelled", ErrUploadUnknown)
		}
		if offset, err := strconv.ParseInt(path.Base(i.Key), 10, 64); err != nil || offset != stands {
			return fmt.Errorf("%w: it has lost a chunk at byte %d", ErrUploadUnknown, stands)
		}
		stands += i.Size
		parts = append(parts, i)
		return nil
	})
	return parts, stands, err
}

// limiter fails when more comes than may come.
type limiter struct {
	body  io.Reader
	read  int64
	check func(size int64, whole bool) error
}

func (l *limiter) Read(p []byte) (int, error) {
	n, err := l.body.Read(p)
	l.read += int64(n)
	if over := l.check(l.read, false); over != nil {
		return n, over
	}
	return n, err
}

// partsReader reads objects one behind the other, one open at a time.
type partsReader struct {
	ctx    context.Context //nolint:containedctx // io.Reader has no place for it; the reader lives as long as one call.
	bucket bucket.Bucket
	parts  []bucket.Info
	open   io.ReadCloser
}

func (p *partsReader) Read(b []byte) (int, error) {
	for {
		if p.open == nil {
			if len(p.parts) == 0 {
				return 0, io.EOF
			}
			r, _, err := p.bucket.Get(p.ctx, p.parts[0].Key, nil)
			if err != nil {
				return 0, err
			}
			p.open, p.parts = r, p.parts[1:]
		}
		n, err := p.open.Read(b)
		if err != io.EOF {
			return n, err
		}
		p.Close()
		if n > 0 {
			return n, nil
		}
	}
}

func (p *partsReader) Close() {
	if p.open != nil {
		_ = p.open.Close()
		p.open = nil
	}
}
