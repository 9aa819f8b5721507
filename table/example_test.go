package table_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/table"
)

// A platform is prepared before the show, is held until the show begins, and goes live by
// a call.
func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	t, err := table.Open(filepath.Join(dir, "destinations.json"), table.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		log.Fatal(err)
	}
	defer t.Close()
	srv := forward.NewServer(forward.Config{
		Hooks:  forward.Hooks{OnSource: t.OnSource},
		Logger: slog.New(slog.DiscardHandler),
	})
	defer srv.Close()

	ctx := context.Background()
	err = t.Put(ctx, table.Entry{
		Name:   "youtube",
		Stream: "live/show",
		State:  table.Held,
		Destination: forward.Destination{
			URL:       "rtmps://a.rtmps.youtube.com/live2",
			StreamKey: "abcd-efgh",
		},
	}, "jo")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(t.GoLive("youtube", "jo")) // too early

	for _, e := range t.Entries() {
		fmt.Println(e, "by", e.By)
	}
	// Output:
	// forward: no stream of the entry is live: youtube
	// youtube held rtmps://a.rtmps.youtube.com/live2/*** by jo
}

// What a page or a program shows of a live stream.
func ExampleTable_Rows() {
	t := table.New(table.Options{})
	defer t.Close()
	srv := forward.NewServer(forward.Config{Hooks: forward.Hooks{OnSource: t.OnSource}})
	defer srv.Close()
	for _, src := range srv.Sources() {
		for _, row := range t.Rows(src) {
			switch {
			case row.Forwarder != nil:
				fmt.Println(row.Name, row.State, row.Forwarder.Stats().State)
			case row.Err != nil:
				fmt.Println(row.Name, row.State, row.Err)
			default:
				fmt.Println(row.Name, row.State)
			}
		}
	}
}
