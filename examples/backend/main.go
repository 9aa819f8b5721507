// Command backend is a small backend for on_forward and http_hooks. Its table
// is a file that is read again when it has changed:
//
//	# app/stream    to
//	live/news       rtmp://10.0.0.6/live/[stream] rtmps://cdn.example/app/key
//	live/*          rtmp://10.0.0.7/live/[stream]
//
// The first line whose pattern matches counts; "*" and "?" do not match a "/".
// In the URLs [app] and [stream] stand for what the stream is called. To
// on_forward it answers them, and for how long they hold; on_publish it refuses
// for what no line matches. The paths do not matter:
//
//	go run ./examples/backend -table table.txt
//
//	forward    { enabled on; backend http://127.0.0.1:8085/api/v1/forward; }
//	http_hooks { enabled on; on_publish http://127.0.0.1:8085/api/v1/streams; }
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8085", "serve at this `address`")
	file := flag.String("table", "table.txt", "routing table `file`")
	ttl := flag.Duration("ttl", 10*time.Second, "how long an answer holds, 0 for the time of the stream")
	flag.Parse()
	b, err := newBackend(*file, *ttl)
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{Addr: *listen, Handler: b, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
	log.Fatal(srv.ListenAndServe())
}

// backend answers by a table in a file.
type backend struct {
	file string
	ttl  time.Duration

	mu    sync.Mutex
	stat  os.FileInfo // modification time of the file when it was read
	table []route
}

type route struct {
	pattern string
	urls    []string
}

// newBackend reads the file, which must be valid.
func newBackend(file string, ttl time.Duration) (*backend, error) {
	b := &backend{file: file, ttl: ttl}
	return b, b.read()
}

// read reads the file if it has changed.
func (b *backend) read() error {
	stat, err := os.Stat(b.file)
	if err != nil {
		return err
	}
	if b.stat != nil && stat.ModTime().Equal(b.stat.ModTime()) && stat.Size() == b.stat.Size() && os.SameFile(stat, b.stat) {
		return nil
	}
	b.stat = stat
	text, err := os.ReadFile(b.file)
	if err != nil {
		return err
	}
	table, err := parse(strings.TrimPrefix(string(text), "\ufeff")) // as Windows saves it
	if err != nil {
		return fmt.Errorf("%s:%w", b.file, err)
	}
	b.table = table
	return nil
}

// parse reads a table. Its error starts with the number of the line.
func parse(text string) (table []route, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if _, err := path.Match(words[0], ""); err != nil || !strings.Contains(words[0], "/") {
			return nil, fmt.Errorf("%d: expected a pattern for app/stream", n)
		}
		for i, u := range words[1:] {
			if !strings.HasPrefix(u, "rtmp://") && !strings.HasPrefix(u, "rtmps://") {
				return nil, fmt.Errorf("%d: URL %d: expected rtmp:// or rtmps://", n, i+1)
			}
		}
		table = append(table, route{words[0], words[1:]})
	}
	return table, nil
}

// find returns where a stream goes, and whether the table contains it.
func (b *backend) find(app, stream string) (urls []string, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.read(); err != nil {
		log.Print("the table is as before: ", err)
	}
	names := strings.NewReplacer("[app]", app, "[stream]", stream)
	for _, r := range b.table {
		if match, _ := path.Match(r.pattern, app+"/"+stream); match {
			urls = make([]string, len(r.urls))
			for i, u := range r.urls {
				urls[i] = names.Replace(u)
			}
			return urls, true
		}
	}
	return nil, false
}

type (
	answer struct {
		Code int   `json:"code"`
		Data *data `json:"data,omitempty"`
	}
	data struct {
		URLs []string `json:"urls"`
		TTL  float64  `json:"ttl,omitempty"` // in seconds
	}
)

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "only POST", http.StatusMethodNotAllowed)
		return
	}
	var question struct{ Action, App, Stream string }
	if json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&question) != nil {
		http.Error(w, "not the JSON of a callback", http.StatusBadRequest)
		return
	}
	var a answer
	switch question.Action {
	case "on_forward":
		urls, _ := b.find(question.App, question.Stream)
		a.Data = &data{URLs: append([]string{}, urls...), TTL: b.ttl.Seconds()}
	case "on_publish":
		if _, ok := b.find(question.App, question.Stream); !ok {
			a.Code = 1
		}
	case "on_connect", "on_close", "on_unpublish", "on_play", "on_stop":
	default:
		http.Error(w, "unknown action", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(a)
}
