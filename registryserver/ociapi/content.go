package ociapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/face"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

// maxTagParameters bounds the tags that one push of a manifest may set.
const maxTagParameters = 100

// mayPush says whether the caller may go on to push what names that which it asks for, so that it must not be collected
// as garbage meanwhile.
func (h *Handler) mayPush(r *request) bool {
	return h.o.Access.AuthorizePush(r.identity, r.repository.Name()).Allowed
}

func headBlob(h *Handler, w http.ResponseWriter, r *request) error {
	stat := r.repository.StatBlob
	if h.mayPush(r) {
		stat = r.repository.HoldBlob
	}
	b, err := stat(r.Context(), digest.Digest(r.argument))
	if err != nil {
		return err
	}
	// HEAD has no ranges (RFC 9110 section 14.2).
	describeBlob(w, b, nil)
	return nil
}

func getBlob(h *Handler, w http.ResponseWriter, r *request) error {
	d := digest.Digest(r.argument)
	var part *bucket.Range
	// No validator was ever given out that If-Range could hold.
	if asked := r.Header.Get("Range"); asked != "" && r.Header.Get("If-Range") == "" {
		b, err := r.repository.StatBlob(r.Context(), d)
		if err != nil {
			return err
		}
		if part, err = face.ParseRange(asked, b.Size); err != nil {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", b.Size))
			return err
		}
	} else if h.o.RedirectFrom > 0 {
		b, err := r.repository.StatBlob(r.Context(), d)
		if err != nil {
			return err
		}
		if b.Size >= h.o.RedirectFrom {
			err := redirectBlob(w, r, b)
			if err == nil {
				h.o.Downloaded(r.repository.Name(), d)
			}
			return err
		}
	}
	body, b, err := r.repository.OpenBlob(r.Context(), d, part)
	if err != nil {
		return err
	}
	defer body.Close()
	describeBlob(w, b, part)
	h.door.Send(w, r.Request, body)
	if part == nil {
		h.o.Downloaded(r.repository.Name(), d)
	}
	return nil
}

// redirectLifetime is how long an address is valid that a client is sent to: a download must begin within it.
const redirectLifetime = 5 * time.Minute

// redirectBlob sends the client to where the blob is stored. Whoever has the address can read the blob for a while: it
// is neither logged nor cached.
func redirectBlob(w http.ResponseWriter, r *request, b repository.Blob) error {
	address, err := r.repository.PresignBlob(r.Context(), b.Digest, blobType, redirectLifetime)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Docker-Content-Digest", b.Digest.String())
	w.Header().Set("Location", address)
	w.WriteHeader(http.StatusTemporaryRedirect)
	return nil
}

// blobType is said of all blobs: what they are is in manifests.
const blobType = "application/octet-stream"

// acceptRanges is in every answer with a blob, shared by all; nobody changes it.
var acceptRanges = []string{"bytes"}

// describeBlob writes the head of the answer.
func describeBlob(w http.ResponseWriter, b repository.Blob, part *bucket.Range) {
	status, length := http.StatusOK, b.Size
	if part != nil {
		status, length = http.StatusPartialContent, part.Length
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.Offset, part.Offset+part.Length-1, b.Size))
	}
	header := w.Header()
	header["Accept-Ranges"] = acceptRanges
	header["Content-Type"], header["Content-Length"], header["Docker-Content-Digest"] =
		values(blobType, strconv.FormatInt(length, 10), b.Digest.String())
	w.WriteHeader(status)
}

// values are those of three headers, made at once: they are in every answer with content.
func values(a, b, c string) (as, bs, cs []string) {
	all := [...]string{a, b, c}
	return all[:1:1], all[1:2:2], all[2:]
}

func deleteBlob(_ *Handler, w http.ResponseWriter, r *request) error {
	if err := r.repository.DeleteBlob(r.Context(), digest.Digest(r.argument)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func headManifest(h *Handler, w http.ResponseWriter, r *request) error {
	stat := r.repository.StatManifest
	if h.mayPush(r) {
		stat = r.repository.HoldManifest
	}
	m, err := stat(r.Context(), r.argument)
	if err != nil {
		return err
	}
	h.o.Pulled(m.Repository, m.Digest.String())
	describeManifest(w, m)
	return nil
}

func getManifest(h *Handler, w http.ResponseWriter, r *request) error {
	content, m, err := r.repository.OpenManifest(r.Context(), r.argument)
	if err != nil {
		return err
	}
	defer content.Close()
	h.o.Pulled(m.Repository, m.Digest.String())
	describeManifest(w, m)
	h.door.Send(w, r.Request, content)
	return nil
}

// describeManifest writes the head of the answer.
func describeManifest(w http.ResponseWriter, m repository.Manifest) {
	header := w.Header()
	header["Content-Type"], header["Content-Length"], header["Docker-Content-Digest"] =
		values(m.MediaType, strconv.FormatInt(m.Size, 10), m.Digest.String())
	w.WriteHeader(http.StatusOK)
}

func putManifest(h *Handler, w http.ResponseWriter, r *request) error {
	if r.ContentLength > repository.MaxManifestBytes {
		return errManifestTooLarge
	}
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return refuse(http.StatusBadRequest, "MANIFEST_INVALID", "a manifest comes with its media type as Content-Type")
	}
	tags, err := r.tagParameters()
	if err != nil {
		return err
	}
	content, done, err := h.largeManifests.read(r.Context(), http.MaxBytesReader(w, r.Body, repository.MaxManifestBytes))
	if err != nil {
		return err
	}
	defer done()
	m, err := r.repository.PutManifest(r.Context(), r.argument, mediaType, content, r.identity.ID, tags...)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		w.Header().Add("OCI-Tag", tag)
	}
	if m.Subject != "" {
		w.Header().Set("OCI-Subject", m.Subject.String())
	}
	r.seen.Stored = m.Digest.String()
	w.Header().Set("Location", "/v2/"+r.name()+"/manifests/"+m.Digest.String())
	w.Header().Set("Docker-Content-Digest", m.Digest.String())
	w.WriteHeader(http.StatusCreated)
	return nil
}

// tagParameters are the tags that a manifest is to have besides the reference that it is pushed under.
func (r *request) tagParameters() ([]string, error) {
	query, err := r.query()
	if err != nil {
		return nil, err
	}
	tags := query["tag"]
	if len(tags) > maxTagParameters {
		return nil, refuse(http.StatusRequestURITooLong, "UNSUPPORTED", fmt.Sprintf("one push sets %d tags at most", maxTagParameters))
	}
	return tags, nil
}

const (
	// smallManifest is far more than charts have, and little enough for every connection to hold so much.
	smallManifest = 64 << 10
	// maxLargeManifests are in memory at once; the next waits for at most largeManifestPatience.
	maxLargeManifests     = 4
	largeManifestPatience = 10 * time.Second
)

// largeManifests are the places for manifests over smallManifest, so that many of them at once do not fill the memory.
// Who sends one slowly holds a place for long, but what charts have needs none.
type largeManifests chan struct{}

// read reads a manifest; done is to be called when it is no longer in memory.
func (l largeManifests) read(ctx context.Context, body io.Reader) (content []byte, done func(), err error) {
	done = func() {}
	content, err = io.ReadAll(io.LimitReader(body, smallManifest+1))
	if err == nil && len(content) > smallManifest {
		if err = l.enter(ctx); err != nil {
			return nil, nil, err
		}
		done = func() { <-l }
		whole := bytes.NewBuffer(make([]byte, 0, repository.MaxManifestBytes+bytes.MinRead))
		whole.Write(content)
		_, err = whole.ReadFrom(body)
		content = whole.Bytes()
	}
	if over := new(http.MaxBytesError); errors.As(err, &over) {
		err = errManifestTooLarge
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return content, done, nil
}

func (l largeManifests) enter(ctx context.Context) error {
	timer := time.NewTimer(largeManifestPatience)
	defer timer.Stop()
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return refuse(http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many large manifests are being pushed at once; try again later")
	}
}

var errManifestTooLarge = refuse(http.StatusRequestEntityTooLarge, "SIZE_INVALID", fmt.Sprintf(
	"a manifest has at most %d bytes; content belongs into blobs", repository.MaxManifestBytes))

func deleteManifest(_ *Handler, w http.ResponseWriter, r *request) error {
	if err := r.repository.DeleteManifest(r.Context(), r.argument); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}
