package forward_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/control"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/sys"
	"github.com/rtmp-forward/forward/srs"
)

// documents returns the names of all documents.
func documents(t *testing.T) (names []string) {
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		names = append(names, found...)
	}
	require.Contains(t, names, "README.md")
	require.Contains(t, names, "docs/routing.md")
	return names
}

func read(t *testing.T, name string) string {
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(text)
}

// fenced returns a pattern that matches code blocks of a language.
func fenced(language string) *regexp.Regexp {
	return regexp.MustCompile("(?s)\n```" + language + "\n(.*?)\n```\n")
}

// blocks returns a document's code blocks of a language.
func blocks(t *testing.T, name, language string) (out []string) {
	for _, m := range fenced(language).FindAllStringSubmatch(read(t, name), -1) {
		out = append(out, m[1])
	}
	return out
}

// rows returns the rows of a text's tables. Cells have no surrounding spaces.
func rows(text string) (out [][]string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|--") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i, c := range cells {
			cells[i] = strings.TrimSpace(c)
		}
		out = append(out, cells)
	}
	return out
}

// quoted returns the words of a cell in backquotes.
func quoted(cell string) (words []string) {
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
		words = append(words, m[1])
	}
	return words
}

// sourceFiles returns the files of the module whose names match a pattern.
func sourceFiles(t *testing.T, pattern string) (names []string) {
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var ok bool
			if ok, err = filepath.Match(pattern, d.Name()); ok {
				names = append(names, path)
			}
		}
		return err
	}))
	return names
}

// flat returns Go source without its indentation.
func flat(source string) string {
	return regexp.MustCompile(`(?m)^\t+`).ReplaceAllString(source, "")
}

// The Go code in the documents is compiled: it is part of the program examples/embed or of an
// example of a package.
func TestDocumentsShowCodeThatCompiles(t *testing.T) {
	_, body, ok := strings.Cut(read(t, "examples/embed/main.go"), "\npackage main\n") // after its comment
	require.True(t, ok)
	program := "package main\n" + body
	var examples strings.Builder
	for _, file := range sourceFiles(t, "example*_test.go") {
		examples.WriteString(flat(read(t, file)))
	}
	for _, name := range documents(t) {
		for _, block := range blocks(t, name, "go") {
			if strings.HasPrefix(block, "package main\n") {
				require.Equal(t, program, block+"\n", name)
				continue
			}
			require.Contains(t, examples.String(), flat(block), name)
		}
	}
	require.NotEmpty(t, blocks(t, "README.md", "go"))

	var shown strings.Builder
	for line := range strings.Lines(read(t, "doc.go")) {
		if code, ok := strings.CutPrefix(line, "//\t"); ok {
			shown.WriteString(code)
		} else if line == "//\n" && shown.Len() > 0 {
			shown.WriteString("\n")
		}
	}
	require.Equal(t, program, strings.TrimRight(shown.String(), "\n")+"\n")
}

func TestDocumentsShowConfigurationThatIsRead(t *testing.T) {
	t.Setenv("YOUTUBE_KEY", "key")
	t.Setenv("FORWARDD_TOKEN", "0123456789abcdef")
	t.Setenv("WEBHOOK_SECRET", "0123456789abcdef")
	for _, name := range documents(t) {
		for _, block := range blocks(t, name, "conf") {
			file, err := srs.ParseConfig(name, []byte(block))
			require.NoError(t, err)
			require.Empty(t, file.Ignored)
			require.Empty(t, file.Warnings)
			require.NoError(t, file.Config.Validate())
		}
	}
	require.NotEmpty(t, blocks(t, "docs/forwardd.md", "conf"))
}

// anchor returns the anchor that GitHub generates for a heading.
func anchor(heading string) string {
	kept := regexp.MustCompile(`[^\p{L}\p{N}\- _]`).ReplaceAllString(strings.ToLower(heading), "")
	return strings.ReplaceAll(kept, " ", "-")
}

func TestDocumentLinksExist(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^()\s]*?)(?:#([^()\s]*))?\)`)
	for _, name := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(fenced(`\w+`).ReplaceAllString(read(t, name), "\n"), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			to := name
			if m[1] != "" {
				to = filepath.Join(filepath.Dir(name), m[1])
			}
			_, err := os.Stat(to)
			require.NoError(t, err, "link of %s", name)
			if m[2] == "" {
				continue
			}
			var anchors []string
			for _, h := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(read(t, to), -1) {
				anchors = append(anchors, anchor(h[1]))
			}
			require.Contains(t, anchors, m[2], "link of %s to %s", name, to)
		}
	}
}

// keys returns the names in a JSON object.
func keys(object map[string]any) []string { return slices.Sorted(maps.Keys(object)) }

// The documented answer to GET /sources equals the real one.
func TestDocumentsShowTheAnswerOfTheControlHandler(t *testing.T) {
	var shown, got struct {
		Sources []map[string]any `json:"sources"`
	}
	require.NoError(t, json.Unmarshal([]byte(blocks(t, "docs/control.md", "json")[0]), &shown))

	lost := make(chan struct{}, 1)
	srv := forward.NewServer(quietly(forward.Config{
		Resolver: forward.MustStatic("a.example"),
		Dial:     new(forwardtest.Network).Dial,
		Hooks: forward.Hooks{OnForward: func(_ *forward.Forwarder, state forward.State, _ error) {
			if state == forward.StateWaiting {
				lost <- struct{}{}
			}
		}},
	}))
	defer srv.Close()
	_, err := srv.Publish(t.Context(), forward.Request{App: "live", Stream: "cam"})
	require.NoError(t, err)
	<-lost
	handler, err := control.Handler(srv, control.Options{Tokens: []forward.Secret{"token"}})
	require.NoError(t, err)
	r := httptest.NewRequest("GET", "/sources", nil)
	r.Header.Set("Authorization", "Bearer token")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))

	forwarder := func(source map[string]any) map[string]any {
		f := source["forwarders"].([]any)[0].(map[string]any)
		delete(f, "next_attempt") // it is not always there
		delete(f["error"].(map[string]any), "code")
		return f
	}
	require.Equal(t, keys(shown.Sources[0]), keys(got.Sources[0]))
	is, documented := forwarder(got.Sources[0]), forwarder(shown.Sources[0])
	require.Equal(t, keys(documented), keys(is))
	require.Equal(t, keys(documented["error"].(map[string]any)), keys(is["error"].(map[string]any)))
}

// The documents name for each setting when a change takes effect.
func TestDocumentsListFrozenSettings(t *testing.T) {
	_, section, ok := strings.Cut(read(t, "docs/architecture.md"), "\n## Frozen and live\n")
	require.True(t, ok)
	var said []string
	for _, word := range quoted(section) {
		said = append(said, strings.TrimPrefix(word, "Limits."))
	}
	for _, of := range []any{forward.Config{}, forward.Hooks{}, forward.Limits{}} {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(of)) {
			if f.Name != "Limits" { // its fields are listed instead
				require.Contains(t, said, f.Name)
			}
		}
	}
}

// The packages that the documents name exist.
func TestDocumentsNamePackagesThatAreThere(t *testing.T) {
	for _, name := range documents(t) {
		for _, word := range quoted(fenced(`\w+`).ReplaceAllString(read(t, name), "\n")) {
			if regexp.MustCompile(`^(internal|examples)/\w+$`).MatchString(word) {
				info, err := os.Stat(word)
				require.NoError(t, err, name)
				require.True(t, info.IsDir(), word)
			}
		}
	}
}

func TestReadmeIsShort(t *testing.T) {
	require.LessOrEqual(t, len(read(t, "README.md")), 7<<10)
}

// The matrix of faults names each test of a fault, in the row of its number, and no others.
func TestDocumentsNameEveryFault(t *testing.T) {
	tests := make(map[string]bool)
	for _, file := range sourceFiles(t, "*_test.go") {
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllStringSubmatch(read(t, file), -1) {
			tests[m[1]] = true
		}
	}
	named, numbers := make(map[string]bool), 0
	for _, row := range rows(read(t, "docs/faults.md")) {
		n, err := strconv.Atoi(row[0])
		if err != nil {
			continue // a head
		}
		numbers++
		names := quoted(row[3])
		require.NotEmpty(t, names, "fault %d", n)
		for _, name := range names {
			named[name] = true
			require.True(t, tests[name], "%s is no test", name)
			if strings.HasPrefix(name, "TestFault") {
				require.True(t, strings.HasPrefix(name, fmt.Sprintf("TestFault%02d_", n)), "%s in row %d", name, n)
			}
		}
	}
	for name := range tests {
		if regexp.MustCompile(`^TestFault\d`).MatchString(name) {
			require.True(t, named[name], "%s is not in docs/faults.md", name)
		}
	}
	require.Contains(t, read(t, "README.md"), fmt.Sprintf("has %d faults", numbers))
}

// setting is a limit or time of a Config.
type setting struct {
	value reflect.Value
	vhost bool // a Vhost has it as well
}

// settings returns the limits and times of a Config by name.
func settings(cfg forward.Config) map[string]setting {
	found := make(map[string]setting)
	ofVhost := reflect.TypeFor[forward.Vhost]()
	var look func(prefix string, v reflect.Value)
	look = func(prefix string, v reflect.Value) {
		for i := range v.NumField() {
			f, name := v.Field(i), v.Type().Field(i).Name
			switch f.Interface().(type) {
			case int, time.Duration:
				_, ok := ofVhost.FieldByName(name)
				found[prefix+name] = setting{f, ok && prefix == ""}
			case forward.Limits, forward.Backoff:
				look(name+".", f)
			}
		}
	}
	look("", reflect.ValueOf(cfg))
	return found
}

var units = map[string]int64{
	"": 1, "MiB": 1 << 20, "KiB": 1 << 10,
	"ms": int64(time.Millisecond), "s": int64(time.Second), "min": int64(time.Minute),
}

// amount returns the value of a number with its unit.
func amount(t *testing.T, text string) int64 {
	number, unit, _ := strings.Cut(text, " ")
	n, err := strconv.ParseInt(number, 10, 64)
	require.NoError(t, err)
	require.Contains(t, units, unit)
	return n * units[unit]
}

func TestDocumentsNameEveryLimit(t *testing.T) {
	all := settings(forward.Config{}.WithDefaults())
	seen := make(map[string]bool)
	for _, row := range rows(read(t, "docs/limits.md")) {
		if row[0] == "field" {
			continue
		}
		name, text := quoted(row[0])[0], row[1]
		require.Contains(t, all, name)
		require.False(t, seen[name], "%s twice", name)
		seen[name] = true
		require.Equal(t, all[name].vhost, strings.Contains(row[0], "(V"), "%s in a vhost", name)
		value := all[name].value.Int()
		switch {
		case name == "Limits.Connections":
			require.Equal(t, "80 % of the file descriptors", text)
			if files := sys.MaxFiles(); files > 0 {
				require.EqualValues(t, files/5*4, value)
			}
		case name == "MemoryBudget": // its default depends on the process
			require.Contains(t, text, "512 MiB")
		case value <= 0:
			require.Equal(t, "none", text, name)
		default:
			require.Equal(t, amount(t, text), value, name)
		}
	}
	for name := range all {
		require.True(t, seen[name], "%s is not in docs/limits.md", name)
	}
}

// The table of options names each field of a Destination, and the options that the control
// handler accepts. Package option tests that the table equals its own.
func TestDocumentsNameEveryOption(t *testing.T) {
	srv := forward.NewServer(quietly(forward.Config{}))
	defer srv.Close()
	pub, err := srv.Publish(context.Background(), forward.Request{App: "live", Stream: "cam"})
	require.NoError(t, err)
	defer pub.Close()
	handler, err := control.Handler(srv, control.Options{Tokens: []forward.Secret{"token"}})
	require.NoError(t, err)
	takes := func(option string) bool {
		r := httptest.NewRequest("POST", "/sources/"+pub.Source().ID()+"/forwarders", strings.NewReader(`{"`+option+`":null}`))
		r.Header.Set("Authorization", "Bearer token")
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		require.Equal(t, 400, w.Code)
		return !strings.Contains(w.Body.String(), "bad_json")
	}
	require.False(t, takes("no_such_option"))

	defaults := reflect.ValueOf(forward.Destination{}.WithDefaults())
	var fields []string
	_, table, ok := strings.Cut(read(t, "docs/routing.md"), "\n| option | field | default | meaning |\n")
	require.True(t, ok)
	table, _, _ = strings.Cut(table, "\n\n")
	for _, row := range rows(table) {
		field := quoted(row[1])[0]
		fields = append(fields, field)
		for _, option := range quoted(row[0]) {
			require.True(t, takes(option), option)
		}
		value := defaults.FieldByName(field)
		require.True(t, value.IsValid(), "Destination has no %s", field)
		if d, ok := value.Interface().(time.Duration); ok && d != 0 {
			require.EqualValues(t, amount(t, row[2]), d, field)
		}
	}
	var want []string
	for _, f := range reflect.VisibleFields(defaults.Type()) {
		want = append(want, f.Name)
	}
	slices.Sort(want)
	slices.Sort(fields)
	require.Equal(t, want, fields)
}
