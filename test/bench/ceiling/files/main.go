// Command files is the ceiling of what is made for each who asks, such as an index or a page: net/http's file server, with the
// same bytes as a file. They never change, so all have the same ETag.
package main

import (
	"flag"
	"log"
	"net/http"
)

func main() {
	listen, dir := flag.String("listen", "127.0.0.1:5000", "address"), flag.String("dir", "", "the files")
	flag.Parse()
	files := http.FileServer(http.Dir(*dir))
	log.Fatal(http.ListenAndServe(*listen, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		files.ServeHTTP(w, r)
	})))
}
