package option_test

import (
	"encoding/json"
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

// check sets an option to a value and compares what the field has with it, and whether
// the destination is valid.
func check[T any](t *testing.T, o option.Option, f option.Field[T], valid bool, value T) {
	t.Helper()
	d := forward.Destination{URL: "rtmps://h/app", StreamKey: "k"}
	f.Set(&d, value)
	require.Equal(t, value, f.Get(d), o.Name)
	require.Equal(t, valid, d.Validate() == nil, "%s %.20v: %v", o.Name, value, d.Validate())
	f.Set(&d, *new(T))
	require.True(t, reflect.ValueOf(d).FieldByName(o.Field).IsZero(), "%s sets %s", o.Name, o.Field)
}

// What a file may say is what a Destination accepts.
func TestBoundsAreThoseOfADestination(t *testing.T) {
	text := func(n int) string { return strings.Repeat("x", n) }
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	for _, o := range option.All {
		switch v := o.Value.(type) {
		case *option.URL:
			check(t, o, v, true, "rtmp://h/app")
			check(t, o, v, false, "h")
		case *option.Text:
			check(t, o, v, true, text(max(v.Min, 1)))
			check(t, o, v, true, text(v.Max))
			check(t, o, v, false, text(v.Max+1))
			check(t, o, v, false, "a\tb")
		case *option.Hash:
			check(t, o, v, true, strings.Repeat("aB", 32))
			check(t, o, v, false, strings.Repeat("aB", 31))
		case *option.Choice:
			for _, word := range v.Words {
				d := forward.Destination{URL: "rtmps://h/app", StreamKey: "k"}
				v.Set(&d, word)
				require.Equal(t, word, v.Get(d))
				require.NoError(t, d.Validate(), "%s %s", o.Name, word)
				v.Set(&d, "unknown")
				require.Equal(t, word, v.Get(d))
			}
		case *option.Switch:
			check(t, o, v, true, true)
		case *option.Number:
			check(t, o, v, true, v.Min)
			check(t, o, v, true, v.Max)
			check(t, o, v, false, v.Min-1)
			check(t, o, v, false, v.Max+1)
		case *option.Milliseconds:
			check(t, o, v, true, ms(max(v.Min, 1)))
			check(t, o, v, true, ms(v.Max))
			if v.Min > 0 {
				check(t, o, v, false, ms(-1))
			}
			if v.Max < 1<<31-1 {
				check(t, o, v, false, ms(v.Max+1))
			}
		default:
			t.Errorf("%s has a value of type %T, which is not tested", o.Name, v)
		}
	}
}

// The words are all that a Destination accepts.
func TestWordsAreThoseOfADestination(t *testing.T) {
	for _, o := range option.All {
		if v, ok := o.Value.(*option.Choice); ok {
			d := forward.Destination{URL: "rtmp://h/app/k"}
			v.Field.Set(&d, "unknown")
			require.Error(t, d.Validate(), o.Name)
		}
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
		switch v := o.Value.(type) {
		case *option.Choice:
			for _, word := range v.Words {
				require.Contains(t, quoted(row), word, o.Name)
			}
		case *option.Number:
			require.Contains(t, row, strconv.Itoa(v.Min)+" to "+strconv.Itoa(v.Max))
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

// The comments of the functions that read options name each of them.
func TestCommentsNameEveryOption(t *testing.T) {
	has := func(text, name string) bool {
		return regexp.MustCompile(`(^|\W)` + name + `(\W|$)`).MatchString(text)
	}
	handler, load, check := doc(t, "control/control.go", "Handler"), doc(t, "srs/file.go", "LoadConfig"), doc(t, "internal/conf/check.go", "Check")
	for _, o := range option.All {
		require.Contains(t, handler, `"`+o.Name+`":`)
		if _, ok := o.Value.(*option.URL); ok || o.After != "" { // a value of another directive
			continue
		}
		require.True(t, has(load, o.Name), o.Name)
		require.True(t, has(check, o.Name), o.Name)
	}
}

// JSON has every option, and sets the same ones again.
func TestJSONOfEveryOption(t *testing.T) {
	d := forward.Destination{}
	for _, o := range option.All {
		switch v := o.Value.(type) {
		case *option.Choice:
			v.Set(&d, v.Words[len(v.Words)-1])
		case *option.Switch:
			v.Set(&d, true)
		case *option.Number:
			v.Set(&d, v.Max)
		case *option.Milliseconds:
			v.Set(&d, time.Duration(v.Max)*time.Millisecond)
		case option.Field[string]:
			v.Set(&d, "\"text\"")
		default:
			t.Errorf("%s has a value of type %T, which is not tested", o.Name, v)
		}
	}
	text, err := json.Marshal(option.ToJSON(d))
	require.NoError(t, err)
	var fields map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(text, &fields))
	require.Len(t, fields, len(option.All))
	var same forward.Destination
	require.NoError(t, option.FromJSON(&same, fields))
	require.Empty(t, fields)
	require.True(t, d.Equal(same))
}
