package table_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/option"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/table"
)

// open opens a Table, which is closed when the test ends.
func open(t testing.TB, path string) *table.Table {
	tb, err := table.Open(path, table.Options{Logger: secretscan.Quiet})
	require.NoError(t, err)
	t.Cleanup(func() { tb.Close() })
	return tb
}

// full is an entry that has every option.
func full(t *testing.T) table.Entry {
	d := forward.Destination{Untrusted: true, NoLinkLocal: true}
	for _, o := range option.All {
		switch v := o.Value.(type) {
		case *option.URL:
			v.Set(&d, "rtmps://h/app/[stream]")
		case *option.Text:
			v.Set(&d, canary)
		case *option.Hash:
			v.Set(&d, strings.Repeat("ab", 32))
		case *option.Choice:
			v.Set(&d, v.Words[len(v.Words)-1])
		case *option.Switch:
			v.Set(&d, true)
		case *option.Number:
			v.Set(&d, v.Max)
		case *option.Milliseconds:
			v.Set(&d, time.Duration(v.Max)*time.Millisecond)
		default:
			t.Fatalf("%s has a value of type %T", o.Name, v)
		}
	}
	return table.Entry{Name: "full", Stream: "//v/" + canary + "/*", State: table.Held, Destination: d}
}

// What is put is there when the file is opened again, with every option.
func TestFileKeepsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.json")
	tb := open(t, path)
	e := full(t)
	require.NoError(t, tb.Put(t.Context(), e, "jo"))
	require.NoError(t, tb.Put(t.Context(), at("d", "~live/.*", "d", table.On), ""))
	negative := at("window", "live/x", "d", table.Off)
	negative.Destination.MergeWindow = -time.Millisecond
	require.NoError(t, tb.Put(t.Context(), negative, ""))
	before := tb.Entries()
	require.NoError(t, tb.Close())
	stat, err := os.Stat(path)
	require.NoError(t, err)
	if runtime.GOOS != "windows" {
		require.Equal(t, fs.FileMode(0o600), stat.Mode().Perm())
	}
	require.Equal(t, before, open(t, path).Entries())
	read, err := table.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, read)
}

// A change that a file cannot keep is refused.
func TestFileKeepsOnlyText(t *testing.T) {
	tb := open(t, filepath.Join(t.TempDir(), "t.json"))
	for what, change := range map[string]func(*forward.Destination){
		"a part of a millisecond": func(d *forward.Destination) { d.DialTimeout = time.Microsecond },
		"no UTF-8":                func(d *forward.Destination) { d.StreamKey = canary + "\xff" },
		"a time of months":        func(d *forward.Destination) { d.DialTimeout = 1000 * time.Hour },
	} {
		e := at("d", "live/x", "d", table.On)
		change(&e.Destination)
		err := tb.Put(t.Context(), e, "")
		require.Error(t, err, what)
		require.NotContains(t, err.Error(), canary)
	}
	require.Empty(t, tb.Entries())
}

// A file is refused as it is if it is not a whole table, and is not changed.
func TestDamagedFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.json")
	tb := open(t, path)
	require.NoError(t, tb.Put(t.Context(), full(t), ""))
	require.NoError(t, tb.Put(t.Context(), at("d", "live/*", "d", table.On), ""))
	require.NoError(t, tb.Close())
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	refused := func(what string, text []byte) {
		t.Helper()
		require.NoError(t, os.WriteFile(path, text, 0o600))
		_, err := table.Open(path, table.Options{Logger: secretscan.Quiet})
		require.ErrorIs(t, err, table.ErrDamaged, what)
		require.NotContains(t, err.Error(), canary, what)
		var fe *table.FileError
		require.ErrorAs(t, err, &fe)
		left, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, text, left, what)
	}
	end := len(strings.TrimSpace(string(good)))
	for n := range end {
		refused(fmt.Sprint("cut off after ", n), good[:n])
	}
	for what, replace := range map[string][2]string{
		"a later version":  {`"version":1`, `"version":2`},
		"no version":       {`"version":1,`, ``},
		"unknown field":    {`"name":"d"`, `"name":"d","` + canary + `":1`},
		"unknown option":   {`"url":`, `"` + canary + `":1,"url":`},
		"a wrong type":     {`"state":"on"`, `"state":7`},
		"an unknown state": {`"state":"on"`, `"state":"` + canary + `"`},
		"a bad name":       {`"name":"d"`, `"name":"` + canary + `/"`},
		"two of a name":    {`"name":"d"`, `"name":"full"`},
		"a bad stream":     {`"stream":"live/*"`, `"stream":""`},
		"a wrong option":   {`"chunk_size":65536`, `"chunk_size":"` + canary + `"`},
		"a wrong word":     {`"profile":"mediamtx"`, `"profile":"` + canary + `"`},
	} {
		text := strings.Replace(string(good), replace[0], replace[1], 1)
		require.NotEqual(t, string(good), text, what)
		if what == "a bad name" || what == "an unknown state" {
			text = strings.ReplaceAll(text, canary, "x") // names are shown
		}
		refused(what, []byte(text))
	}
	refused("another document", []byte("[]"))
	refused("a document more", append(good, '{', '}'))
	refused("too long", append(good, strings.Repeat(" ", 8<<20)...))
	require.NoError(t, os.WriteFile(path, good, 0o600))
	require.Len(t, open(t, path).Entries(), 2)
}

// A file that every user may read is refused, one that the group may read is told.
func TestModeOfTheFile(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // it has no modes
	}
	path := filepath.Join(t.TempDir(), "t.json")
	tb := open(t, path)
	require.NoError(t, tb.Put(t.Context(), at("d", "live/*", "d", table.On), ""))
	require.NoError(t, tb.Close())
	for _, mode := range []fs.FileMode{0o604, 0o602, 0o644, 0o666} {
		require.NoError(t, os.Chmod(path, mode))
		_, err := table.Open(path, table.Options{Logger: secretscan.Quiet})
		require.ErrorIs(t, err, table.ErrExposed)
		require.Contains(t, err.Error(), "expected 0600")
	}
	require.NoError(t, os.Chmod(path, 0o660))
	var log strings.Builder
	tb, err := table.Open(path, table.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	defer tb.Close()
	require.Contains(t, log.String(), "group")
	require.NoError(t, tb.Switch(t.Context(), "d", table.Off, ""))
	stat, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), stat.Mode().Perm())
}

// Only one Table has a file, and a link to it, open at a time.
func TestFileHasOneTable(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "t.json"), filepath.Join(dir, "link")
	tb := open(t, path)
	if runtime.GOOS == "windows" { // where not every user may make links
		link = path
	} else {
		require.NoError(t, os.Symlink(path, link))
	}
	for _, p := range []string{path, link} {
		_, err := table.Open(p, table.Options{Logger: secretscan.Quiet})
		require.ErrorIs(t, err, table.ErrInUse)
	}
	require.NoError(t, tb.Close())
	tb = open(t, link)
	require.NoError(t, tb.Put(t.Context(), at("d", "live/*", "d", table.On), ""))
	require.NoError(t, tb.Close())
	if link != path {
		stat, err := os.Lstat(link)
		require.NoError(t, err)
		require.NotZero(t, stat.Mode()&fs.ModeSymlink, "the link stays")
	}
	require.Len(t, open(t, path).Entries(), 1)
}

// A change that cannot be written is not made.
func TestFileThatCannotBeWritten(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // a directory with an open file cannot be renamed there
	}
	dir := filepath.Join(t.TempDir(), "sub")
	require.NoError(t, os.Mkdir(dir, 0o700))
	path := filepath.Join(dir, "t.json")
	tb := open(t, path)
	require.NoError(t, tb.Put(t.Context(), at("d", "live/*", "d", table.On), ""))
	require.NoError(t, os.Rename(dir, dir+"2"))
	var fe *table.FileError
	require.ErrorAs(t, tb.Switch(t.Context(), "d", table.Off, ""), &fe)
	require.ErrorIs(t, fe, fs.ErrNotExist)
	require.Equal(t, table.On, tb.Entries()[0].State)
	require.NoError(t, os.Rename(dir+"2", dir))
	require.NoError(t, tb.Switch(t.Context(), "d", table.Off, ""))
	require.NoError(t, tb.Close())
	require.Equal(t, table.Off, open(t, path).Entries()[0].State)
}

func TestFilesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "none", "t.json")} {
		_, err := table.Open(path, table.Options{Logger: secretscan.Quiet})
		var fe *table.FileError
		require.ErrorAs(t, err, &fe, path)
		require.Equal(t, path, fe.Path)
	}
	_, err := table.ReadFile(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// The file is bounded. With the longest options a table reaches the bound before
// MaxEntries.
func TestFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.json")
	tb := open(t, path)
	e := at("first", "live/x", "d", table.Off)
	long := strings.Repeat(`"`, 4000) // each takes two bytes
	e.Destination.StreamKey, e.Destination.Password = forward.Secret(long), forward.Secret(long)
	e.Destination.User, e.Destination.TcURL, e.Destination.ServerName = long, long, long
	require.NoError(t, tb.Put(t.Context(), e, ""))
	require.NoError(t, tb.Close())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	line := strings.Split(string(text), "\n")[1]
	n := (8<<20 - 100) / (len(line) + 10) // is the bound
	require.Less(t, n, table.MaxEntries)
	lines := []string{`{"version":1,"destinations":[`}
	for i := range n {
		lines = append(lines, strings.Replace(line, "first", fmt.Sprint("d", i), 1)+",")
	}
	lines[n] = strings.TrimSuffix(lines[n], ",")
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(append(lines, "]}"), "\n")), 0o600))
	tb = open(t, path)
	require.Len(t, tb.Entries(), n)
	for i := 0; ; i++ {
		require.Less(t, i, 10)
		e.Name = fmt.Sprint("more", i)
		if err := tb.Put(t.Context(), e, ""); err != nil {
			require.ErrorIs(t, err, forward.ErrLimit)
			n += i
			break
		}
	}
	require.Len(t, tb.Entries(), n)
	require.NoError(t, tb.Close())
	require.Len(t, open(t, path).Entries(), n)
}

// child changes the table of a file until it is killed. It writes the number of each
// change before and after it.
func child(path string) {
	tb, err := table.Open(path, table.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	n := 0
	for _, e := range tb.Entries() {
		n = max(n, number(e))
	}
	for {
		n++
		fmt.Println("begin", n)
		e := table.Entry{
			Name: fmt.Sprint("d", n%7), Stream: fmt.Sprint("live/", n), State: table.On,
			Destination: forward.Destination{URL: "rtmp://h/app", StreamKey: forward.Secret(strings.Repeat("k", 1+n%3000))},
		}
		if err := tb.Put(context.Background(), e, strconv.Itoa(n)); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println("end", n)
	}
}

func number(e table.Entry) int {
	n, _ := strconv.Atoi(e.By)
	return n
}

// Whenever the process is killed, the file is the table before or after the change that
// was under way.
func TestFileSurvivesKill(t *testing.T) {
	const kills = 200
	path := filepath.Join(t.TempDir(), "t.json")
	random := rand.New(rand.NewPCG(1, 2))
	changes, during := 0, 0
	for range kills {
		begun, ended := run(t, path, random.IntN(8), random.IntN(3000))
		entries, err := table.ReadFile(path)
		require.NoError(t, err)
		newest := 0
		for _, e := range entries {
			newest = max(newest, number(e))
		}
		require.True(t, newest == begun || newest == ended, "the file has change %d, %d has begun and %d ended", newest, begun, ended)
		for _, e := range entries {
			require.Equal(t, fmt.Sprint("live/", number(e)), e.Stream)
			require.Equal(t, fmt.Sprint("d", number(e)%7), e.Name)
			require.Len(t, string(e.Destination.StreamKey), 1+number(e)%3000)
			require.Greater(t, number(e), newest-7)
		}
		require.Len(t, entries, min(newest, 7))
		changes = newest
		if begun != ended {
			during++
		}
	}
	t.Logf("%d changes, %d kills, %d of them during a change", changes, kills, during)
	names, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	require.NoError(t, err)
	require.LessOrEqual(t, len(names), 3, "the file, its lock and at most one that was being written: %v", names)
}

// run runs a child until it has made some changes and then a little longer, and kills it.
// It returns the numbers of the last change that it has begun and of the last that it has
// ended.
func run(t *testing.T, path string, some, spins int) (begun, ended int) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TABLE_OF_CHILD="+path)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	note := func() {
		word, n, _ := strings.Cut(lines.Text(), " ")
		at, err := strconv.Atoi(n)
		require.NoError(t, err, lines.Text())
		switch word {
		case "begin":
			begun = at
		case "end":
			ended = at
		}
	}
	for seen := 0; seen <= some && lines.Scan(); seen++ {
		note()
	}
	for range spins {
		runtime.Gosched()
	}
	require.NoError(t, cmd.Process.Kill())
	for lines.Scan() {
		note()
	}
	var exit *exec.ExitError
	require.True(t, errors.As(cmd.Wait(), &exit))
	if ended == 0 {
		ended = begun - 1
	}
	return begun, ended
}

// The file is JSON that others may read.
func TestFileIsJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.json")
	tb := open(t, path)
	require.NoError(t, tb.Put(t.Context(), at("d", "live/*", "d", table.On), "jo"))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var v struct {
		Version      int
		Destinations []struct {
			Name, Stream, State, By string
			Destination             map[string]any
		}
	}
	require.NoError(t, json.Unmarshal(text, &v))
	require.Equal(t, 1, v.Version)
	require.Equal(t, "on", v.Destinations[0].State)
	require.Equal(t, canary+"-d", v.Destinations[0].Destination["stream_key"])
}

func FuzzReadFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "t.json")
	tb := open(f, path)
	require.NoError(f, tb.Put(f.Context(), at("d", "live/*", "d", table.On), "jo"))
	tb.Close()
	text, err := os.ReadFile(path)
	require.NoError(f, err)
	f.Add(text)
	f.Add([]byte(`{"version":1,"destinations":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "t.json")
		require.NoError(t, os.WriteFile(path, text, 0o600))
		entries, err := table.ReadFile(path)
		if err != nil {
			require.ErrorIs(t, err, table.ErrDamaged)
			return
		}
		tb := open(t, path) // and what is read is written again
		for _, e := range entries {
			require.NoError(t, tb.Switch(t.Context(), e.Name, e.State, ""))
		}
		tb.Close()
		again, err := table.ReadFile(path)
		require.NoError(t, err)
		require.Len(t, again, len(entries))
	})
}
