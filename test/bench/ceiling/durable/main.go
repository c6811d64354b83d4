// Command durable is the durable ceiling of the benchmarks: a plain file store that answers the requests of helm, and
// for each chart pushed does exactly four times (configuration, chart, manifest, tag): create, write, SHA-256, fsync,
// rename, fsync of the directory. It judges nothing but digests, asks nobody who they are, and caches nothing.
package main

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

func main() {
	listen, dir := flag.String("listen", "127.0.0.1:5000", "address"), flag.String("dir", "", "where the files go")
	flag.Parse()
	s := store(*dir)
	if err := os.MkdirAll(s.path(".tmp"), 0o700); err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe(*listen, s))
}

// store is a folder with blobs, manifests and tags of each repository.
type store string

func (s store) path(elements ...string) string {
	return filepath.Join(append([]string{string(s)}, elements...)...)
}

var errDigest = errors.New("the content does not have the digest that was announced")

func (s store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, _ := strings.CutPrefix(r.URL.Path, "/v2/")
	cut := strings.LastIndexByte(path, '/')
	folder, name := path[:cut], path[cut+1:]
	repository, kind := filepath.Dir(folder), filepath.Base(folder)
	var err error
	switch r.Method {
	case http.MethodPost:
		w.Header().Set("Location", r.URL.Path+"1")
		w.WriteHeader(http.StatusAccepted)
	case http.MethodPut:
		err = s.put(w, r, repository, kind, name)
	default:
		err = s.get(w, r, repository, kind, name)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		http.NotFound(w, r)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (s store) put(w http.ResponseWriter, r *http.Request, repository, kind, name string) error {
	digest := r.URL.Query().Get("digest")
	var err error
	switch {
	case kind == "uploads":
		err = s.write(r.Body, digest, filepath.Dir(repository), "blobs", digest)
	case strings.Contains(name, ":"):
		digest = name
		err = s.write(r.Body, digest, repository, "manifests", digest)
	default:
		var manifest []byte
		if manifest, err = io.ReadAll(r.Body); err == nil {
			digest = fmt.Sprintf("sha256:%x", sha256.Sum256(manifest))
			err = s.write(strings.NewReader(digest), "", repository, "tags", name)
		}
	}
	if err != nil {
		return err
	}
	w.Header().Set("Docker-Content-Digest", digest)
	w.WriteHeader(http.StatusCreated)
	return nil
}

// write makes the object at place durable. An empty digest is not compared.
func (s store) write(body io.Reader, digest string, place ...string) error {
	f, err := os.CreateTemp(s.path(".tmp"), "")
	if err != nil {
		return err
	}
	defer f.Close()
	hash := sha256.New()
	// #nosec G110 -- the benchmark's own content.
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(f, hash)}, body, make([]byte, 128<<10)); err != nil {
		return err
	}
	if got := fmt.Sprintf("sha256:%x", hash.Sum(nil)); digest != "" && got != digest {
		return errDigest
	}
	if err := f.Sync(); err != nil {
		return err
	}
	target := s.path(place...)
	err = os.Rename(f.Name(), target)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(target), 0o700); err == nil {
			err = os.Rename(f.Name(), target)
		}
	}
	if err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(target))
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}

func (s store) get(w http.ResponseWriter, r *http.Request, repository, kind, name string) error {
	if kind == "manifests" && !strings.Contains(name, ":") {
		digest, err := os.ReadFile(s.path(repository, "tags", name))
		if err != nil {
			return err
		}
		name = string(digest)
	}
	f, err := os.Open(s.path(repository, kind, name))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if kind == "manifests" {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	}
	w.Header().Set("Content-Length", strconv.FormatInt(info.Size(), 10))
	w.Header().Set("Docker-Content-Digest", name)
	if r.Method == http.MethodGet {
		if _, err := io.Copy(w, f); err != nil { // With sendfile(2).
			panic(http.ErrAbortHandler)
		}
	}
	return nil
}
