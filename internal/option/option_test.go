package option_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/option"
)

// goOnly are the fields of a Destination that text does not set.
var goOnly = []string{"DialContext", "TLSConfig", "Untrusted", "NoLinkLocal"}

// Every field is set by one option, or by none on purpose.
func TestTableHasEveryFieldOfADestination(t *testing.T) {
	var fields, names []string
	for _, o := range option.All {
		require.NotContains(t, names, o.Name)
		fields, names = append(fields, o.Field), append(names, o.Name)
	}
	var want []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[forward.Destination]()) {
		want = append(want, f.Name)
	}
	require.ElementsMatch(t, want, append(fields, goOnly...))
}

// withOption is a destination with a value of one option.
func withOption(o option.Option, value any) forward.Destination {
	d := forward.Destination{URL: "rtmps://h/app", StreamKey: "k"}
	o.Set(&d, value)
	return d
}

// What a file may say is what a Destination accepts.
func TestBoundsAreThoseOfADestination(t *testing.T) {
	for _, o := range option.All {
		accepts := func(want bool, value any) {
			t.Helper()
			d := withOption(o, value)
			require.False(t, reflect.ValueOf(d).FieldByName(o.Field).IsZero(), "%s %v", o.Name, value)
			require.Equal(t, want, d.Validate() == nil, "%s %.20v: %v", o.Name, value, d.Validate())
		}
		text := func(n int) string { return strings.Repeat("x", n) }
		ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
		switch o.Kind {
		case option.URL:
			accepts(true, "rtmp://h/app")
			accepts(false, "h")
		case option.Text:
			accepts(true, text(max(o.Min, 1)))
			accepts(true, text(o.Max))
			accepts(false, text(o.Max+1))
			accepts(false, "a\tb")
		case option.Hash:
			accepts(true, strings.Repeat("aB", 32))
			accepts(false, strings.Repeat("aB", 31))
		case option.Choice:
			for _, word := range o.Words[1:] {
				accepts(true, word)
			}
			require.NoError(t, withOption(o, o.Words[0]).Validate(), o.Name)
			d := forward.Destination{URL: "rtmp://h/app/k"}
			require.False(t, o.Set(&d, "unknown") && d.Validate() == nil, o.Name)
		case option.Switch:
			accepts(true, true)
		case option.Number:
			accepts(true, o.Min)
			accepts(true, o.Max)
			accepts(false, o.Min-1)
			accepts(false, o.Max+1)
		case option.Milliseconds:
			accepts(true, ms(max(o.Min, 1)))
			accepts(true, ms(o.Max))
			if o.Min > 0 {
				accepts(false, ms(-1))
			}
			if o.Max < 1<<31-1 {
				accepts(false, ms(o.Max+1))
			}
		default:
			t.Errorf("%s has a kind that is not tested", o.Name)
		}
	}
}

// The words of a field that is an int are in the order of its constants.
func TestWordsOfRedirect(t *testing.T) {
	for _, o := range option.All {
		if o.Name != "redirect" {
			continue
		}
		require.Len(t, o.Words, 3)
		for word, want := range map[string]forward.Redirect{
			"same_host": forward.RedirectSameHost, "never": forward.RedirectNever, "anywhere": forward.RedirectAnywhere,
		} {
			d := forward.Destination{Redirect: -1}
			require.True(t, o.Set(&d, word))
			require.Equal(t, want, d.Redirect)
		}
		d := forward.Destination{Redirect: forward.RedirectNever}
		require.False(t, o.Set(&d, "unknown"))
		require.Equal(t, forward.RedirectNever, d.Redirect)
	}
}

func TestOptionsOfADirective(t *testing.T) {
	names := func(directive string) (names []string) {
		for _, o := range option.OfDirective(directive) {
			names = append(names, o.Name)
		}
		return names
	}
	require.Equal(t, []string{"user", "password"}, names("user"))
	require.Equal(t, []string{"stream_key"}, names("stream_key"))
	for _, none := range []string{"", "url", "password", "unknown"} {
		require.Empty(t, names(none), none)
	}
}

func read(t *testing.T, name string) string {
	text, err := os.ReadFile("../../" + name)
	require.NoError(t, err)
	return string(text)
}

// quoted returns what is in backquotes.
func quoted(text string) (words []string) {
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(text, -1) {
		words = append(words, m[1])
	}
	return words
}

// The table in the documents is this one, and fields that only Go can set.
func TestDocumentsHaveTheTable(t *testing.T) {
	rows := make(map[string]string) // by the option's name, or the field's if it has none
	_, table, ok := strings.Cut(read(t, "docs/routing.md"), "\n| option | field | default | meaning |\n|---|---|---|---|\n")
	require.True(t, ok)
	table, _, _ = strings.Cut(table, "\n\n")
	for row := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(row, "|\n"), "|")
		require.Len(t, cells, 4, row)
		names, field := quoted(cells[0]), quoted(cells[1])
		require.Len(t, field, 1, row)
		if len(names) == 0 {
			require.Contains(t, goOnly, field[0])
			require.Contains(t, row, "Go only")
			names = field
		}
		require.Len(t, names, 1, row)
		require.NotContains(t, rows, names[0])
		rows[names[0]] = row
	}
	require.Len(t, rows, len(option.All)+len(goOnly))
	for _, o := range option.All {
		row := rows[o.Name]
		require.Contains(t, row, "| `"+o.Field+"` |", o.Name)
		for _, word := range o.Words {
			require.Contains(t, quoted(row), word, o.Name)
		}
		if o.Kind == option.Number {
			require.Contains(t, row, strconv.Itoa(o.Min)+" to "+strconv.Itoa(o.Max))
		}
		if o.After != "" {
			require.Contains(t, row, "it follows `"+o.After+"`")
		}
	}
	for _, name := range []string{"docs/control.md", "docs/forwardd.md"} {
		require.Contains(t, read(t, name), "(routing.md#options-of-a-destination)", name)
	}
	example := regexp.MustCompile("\n```json\n(\\{\"url\":.*)\n```\n").FindStringSubmatch(read(t, "docs/control.md"))
	require.NotNil(t, example, "docs/control.md shows a destination")
	for _, m := range regexp.MustCompile(`"(\w+)":`).FindAllStringSubmatch(example[1], -1) {
		require.Contains(t, rows, m[1])
	}
}

// doc is the comment of a function.
func doc(t *testing.T, file, function string) string {
	parsed, err := parser.ParseFile(token.NewFileSet(), "../../"+file, nil, parser.ParseComments)
	require.NoError(t, err)
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == function {
			return f.Doc.Text()
		}
	}
	t.Fatalf("%s has no %s", file, function)
	return ""
}

// Whoever reads the comments of what reads an option finds it there.
func TestCommentsNameEveryOption(t *testing.T) {
	has := func(text, name string) bool {
		return regexp.MustCompile(`(^|\W)` + name + `(\W|$)`).MatchString(text)
	}
	handler, load, check := doc(t, "control/control.go", "Handler"), doc(t, "srs/file.go", "LoadConfig"), doc(t, "internal/conf/check.go", "Check")
	for _, o := range option.All {
		require.Contains(t, handler, `"`+o.Name+`":`)
		if o.Kind == option.URL || o.After != "" { // a value of another directive
			continue
		}
		require.True(t, has(load, o.Name), o.Name)
		require.True(t, has(check, o.Name), o.Name)
	}
}
