package ociapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

// maxTags bounds one answer to a client that asks for a number of tags.
const maxTags = 10_000

func headBlob(_ *Handler, w http.ResponseWriter, r *request) error {
	b, err := r.repository.StatBlob(r.Context(), digest.Digest(r.argument))
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
		if part, err = parseRange(asked, b.Size); err != nil {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", b.Size))
			return err
		}
	}
	body, b, err := r.repository.OpenBlob(r.Context(), d, part)
	if err != nil {
		return err
	}
	defer body.Close()
	describeBlob(w, b, part)
	h.send(w, r, body)
	return nil
}

// describeBlob writes the head of the answer.
func describeBlob(w http.ResponseWriter, b repository.Blob, part *bucket.Range) {
	status, length := http.StatusOK, b.Size
	if part != nil {
		status, length = http.StatusPartialContent, part.Length
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.Offset, part.Offset+part.Length-1, b.Size))
	}
	w.Header().Set("Accept-Ranges", "bytes")
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
	w.Header().Set("Docker-Content-Digest", b.Digest.String())
	w.WriteHeader(status)
}

func deleteBlob(_ *Handler, w http.ResponseWriter, r *request) error {
	if err := r.repository.DeleteBlob(r.Context(), digest.Digest(r.argument)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func headManifest(_ *Handler, w http.ResponseWriter, r *request) error {
	m, err := r.repository.StatManifest(r.Context(), r.argument)
	if err != nil {
		return err
	}
	describeManifest(w, m)
	return nil
}

func getManifest(h *Handler, w http.ResponseWriter, r *request) error {
	content, m, err := r.repository.OpenManifest(r.Context(), r.argument)
	if err != nil {
		return err
	}
	defer content.Close()
	describeManifest(w, m)
	h.send(w, r, content)
	return nil
}

// describeManifest writes the head of the answer.
func describeManifest(w http.ResponseWriter, m repository.Manifest) {
	w.Header().Set("Content-Type", m.MediaType)
	w.Header().Set("Content-Length", strconv.FormatInt(m.Size, 10))
	w.Header().Set("Docker-Content-Digest", m.Digest.String())
	w.WriteHeader(http.StatusOK)
}

// send writes the body of an answer whose head is written.
func (h *Handler) send(w http.ResponseWriter, r *request, content io.Reader) {
	if _, err := io.Copy(w, content); err != nil {
		if errors.Is(err, bucket.ErrUnavailable) {
			h.o.Logger.ErrorContext(r.Context(), "storage failed in the middle of an answer", "error", err)
		}
		// The status is sent: breaking off is the only way left to tell the client that this is not all.
		panic(http.ErrAbortHandler)
	}
}

func putManifest(h *Handler, w http.ResponseWriter, r *request) error {
	if r.ContentLength > repository.MaxManifestBytes {
		return errManifestTooLarge
	}
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return &apiError{http.StatusBadRequest, "MANIFEST_INVALID", "a manifest comes with its media type as Content-Type"}
	}
	content, done, err := h.largeManifests.read(r.Context(), http.MaxBytesReader(w, r.Body, repository.MaxManifestBytes))
	if err != nil {
		return err
	}
	defer done()
	m, err := r.repository.PutManifest(r.Context(), r.argument, mediaType, content, r.identity.ID)
	if errors.Is(err, repository.ErrTagImmutable) {
		stands, err := r.repository.StatManifest(r.Context(), r.argument)
		if err != nil {
			return err
		}
		return &apiError{http.StatusConflict, "DENIED", fmt.Sprintf(
			"%s %s exists already with other content (%s), and versions are immutable here: raise the version in Chart.yaml and push again",
			r.name, r.argument, stands.Digest)}
	}
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v2/"+r.name+"/manifests/"+m.Digest.String())
	w.Header().Set("Docker-Content-Digest", m.Digest.String())
	w.WriteHeader(http.StatusCreated)
	return nil
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
		return &apiError{http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many large manifests are being pushed at once; try again later"}
	}
}

var errManifestTooLarge = &apiError{http.StatusRequestEntityTooLarge, "SIZE_INVALID", fmt.Sprintf(
	"a manifest has at most %d bytes; content belongs into blobs", repository.MaxManifestBytes)}

func deleteManifest(_ *Handler, w http.ResponseWriter, r *request) error {
	if err := r.repository.DeleteManifest(r.Context(), r.argument); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func getTags(_ *Handler, w http.ResponseWriter, r *request) error {
	query, err := r.query()
	if err != nil {
		return err
	}
	n, err := tagLimit(query)
	if err != nil {
		return err
	}
	// The store lists all for 0, but a client that asks for 0 tags wants none.
	ask := n
	if query.Has("n") && n == 0 {
		ask = 1
	}
	found, more, err := r.repository.Tags(r.Context(), ask, query.Get("last"))
	if err != nil {
		return err
	}
	found = append([]string{}, found...)
	if ask != n {
		found, more = found[:0], false
	}
	body, err := json.Marshal(struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{r.name, found})
	if err != nil {
		return fmt.Errorf("encoding tags: %w", err)
	}
	if more {
		next := url.Values{"n": {strconv.Itoa(n)}, "last": {found[len(found)-1]}}
		w.Header().Set("Link", "</v2/"+r.name+"/tags/list?"+next.Encode()+`>; rel="next"`)
	}
	writeJSON(w, http.StatusOK, body)
	return nil
}

// tagLimit reads the query parameter n; 0 when there is none.
func tagLimit(query url.Values) (int, error) {
	if !query.Has("n") {
		return 0, nil
	}
	n, err := parseOffset(query.Get("n"))
	if err != nil {
		return 0, &apiError{http.StatusBadRequest, "UNSUPPORTED", "n is the number of tags wanted: digits alone"}
	}
	return int(min(n, maxTags)), nil
}
