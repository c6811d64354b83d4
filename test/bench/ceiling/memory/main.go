// Command memory is the memory ceiling of the benchmarks: the least that a registry on net/http can do. Content is kept
// in memory and neither judged nor hashed, except that a manifest gets its digest when it comes in.
package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

type object struct {
	body                      []byte
	kind, length, digestValue []string
}

func main() {
	listen, cert, key := flag.String("listen", "127.0.0.1:5000", "address"), flag.String("cert", "", "PEM"), flag.String("key", "", "PEM")
	flag.Parse()
	var objects sync.Map
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; r.Method {
		case http.MethodPost:
			w.Header().Set("Location", path+"1")
			w.WriteHeader(http.StatusAccepted)
		case http.MethodPut:
			body := make([]byte, r.ContentLength)
			if _, err := io.ReadFull(r.Body, body); err != nil {
				panic(http.ErrAbortHandler)
			}
			folder, digest, kind := path[:strings.LastIndexByte(path, '/')+1], r.URL.Query().Get("digest"), "application/octet-stream"
			if digest == "" {
				digest, kind = fmt.Sprintf("sha256:%x", sha256.Sum256(body)), r.Header.Get("Content-Type")
			}
			o := &object{body, []string{kind}, []string{strconv.Itoa(len(body))}, []string{digest}}
			objects.Store(strings.TrimSuffix(folder, "uploads/")+digest, o)
			objects.Store(path, o)
			w.WriteHeader(http.StatusCreated)
		default:
			found, ok := objects.Load(path)
			if !ok {
				http.NotFound(w, r)
				return
			}
			o, header := found.(*object), w.Header()
			header["Content-Type"], header["Content-Length"], header["Docker-Content-Digest"] = o.kind, o.length, o.digestValue
			_, _ = w.Write(o.body)
		}
	})
	if *cert != "" {
		log.Fatal(http.ListenAndServeTLS(*listen, *cert, *key, handler))
	}
	log.Fatal(http.ListenAndServe(*listen, handler))
}
