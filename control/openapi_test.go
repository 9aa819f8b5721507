package control

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/option"
)

// The parts of an OpenAPI description that ours has.
type (
	description struct {
		OpenAPI    string
		Info       any
		Servers    []any
		Security   []map[string][]string
		Paths      map[string]pathItem
		Components struct {
			SecuritySchemes map[string]struct{ Type, Scheme string }
			Responses       map[string]response
			Schemas         map[string]*schema
		}
	}
	pathItem struct {
		Parameters []struct {
			Name, In, Description string
			Required              bool
			Schema                schema
		}
		Get, Post, Put, Delete *operation
	}
	operation struct {
		OperationID, Summary string
		RequestBody          *struct {
			Required bool
			Content  map[string]media
		}
		Responses map[string]response
	}
	response struct {
		Ref         string `json:"$ref"`
		Description string
		Headers     any
		Content     map[string]media
	}
	media  struct{ Schema *schema }
	schema struct {
		Ref                  string `json:"$ref"`
		Type, Format         string
		Description          string
		Enum                 []string
		Minimum, Maximum     *int
		WriteOnly            bool
		AdditionalProperties *bool
		Required             []string
		Properties           map[string]*schema
		Items                *schema
	}
)

var spec = sync.OnceValue(func() *description {
	d := new(description)
	dec := json.NewDecoder(strings.NewReader(string(openAPI)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(d); err != nil {
		panic(err)
	}
	return d
})

func (p pathItem) operations() map[string]*operation {
	all := map[string]*operation{"GET": p.Get, "POST": p.Post, "PUT": p.Put, "DELETE": p.Delete}
	maps.DeleteFunc(all, func(_ string, o *operation) bool { return o == nil })
	return all
}

func (d *description) response(r response) response {
	if name, ok := strings.CutPrefix(r.Ref, "#/components/responses/"); ok {
		return d.Components.Responses[name]
	}
	return r
}

func (d *description) schema(s *schema) *schema {
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		return d.Components.Schemas[name]
	}
	return s
}

// fits says why a value is not one of a schema, or is empty.
func (d *description) fits(s *schema, v any, at string) string {
	if s = d.schema(s); s == nil {
		return at + ": no such schema"
	}
	ok := true
	switch v := v.(type) {
	case map[string]any:
		ok = s.Type == "object"
		for _, name := range s.Required {
			if _, there := v[name]; !there {
				return at + "." + name + " is missing"
			}
		}
		for name, v := range v {
			if p := s.Properties[name]; p != nil {
				if why := d.fits(p, v, at+"."+name); why != "" {
					return why
				}
			} else if s.AdditionalProperties != nil {
				return at + "." + name + " is not described"
			}
		}
	case []any:
		if ok = s.Type == "array"; ok {
			for _, v := range v {
				if why := d.fits(s.Items, v, at+"[]"); why != "" {
					return why
				}
			}
		}
	case string:
		ok = s.Type == "string" && (s.Enum == nil || slices.Contains(s.Enum, v))
		if s.Format == "date-time" {
			_, err := time.Parse(time.RFC3339, v)
			ok = ok && err == nil
		}
	case float64:
		ok = s.Type == "integer" && v == float64(int64(v))
	case bool:
		ok = s.Type == "boolean"
	default:
		ok = false
	}
	if !ok {
		return fmt.Sprintf("%s: %v is no %s", at, v, s.Type)
	}
	return ""
}

// seen has the answers of the tests, as "GET /sources 200".
var seen sync.Map

// described checks an answer against the description.
func described(t *testing.T, method, at string, resp *http.Response, body []byte) {
	t.Helper()
	d := spec()
	for pattern, item := range d.Paths {
		if !same(pattern, at) {
			continue
		}
		op := item.operations()[strings.Replace(method, "HEAD", "GET", 1)]
		status := strconv.Itoa(resp.StatusCode)
		if op == nil {
			require.Contains(t, []int{401, 405}, resp.StatusCode)
			return
		}
		r, ok := op.Responses[status]
		require.True(t, ok, "%s %s answers %s, which is not described", method, pattern, status)
		seen.Store(method+" "+pattern+" "+status, true)
		if r = d.response(r); r.Content == nil {
			require.Empty(t, body)
			return
		}
		var v any
		require.NoError(t, json.Unmarshal(body, &v))
		require.Empty(t, d.fits(r.Content[resp.Header.Get("Content-Type")].Schema, v, pattern))
		return
	}
	require.Contains(t, []int{401, 404}, resp.StatusCode, "%s is not described", at)
}

// same reports whether a path is of a pattern.
func same(pattern, at string) bool {
	pattern = strings.NewReplacer("{source}", "*", "{forwarder}", "*", "{name}", "*").Replace(pattern)
	ok, _ := path.Match(pattern, at)
	return ok
}

// The description has the requests and statuses that there are, and no others.
func TestDescriptionHasEveryRequest(t *testing.T) {
	d := spec()
	var want, got []string
	for pattern, methods := range new(handler).paths() {
		for method := range methods {
			want = append(want, method+" "+pattern)
		}
	}
	for pattern, item := range d.Paths {
		require.Len(t, item.Parameters, strings.Count(pattern, "{"), pattern)
		for method, op := range item.operations() {
			got = append(got, method+" "+pattern)
			for status, r := range op.Responses {
				r = d.response(r)
				require.NotEmpty(t, r.Description, "%s %s %s", method, pattern, status)
				for code := range strings.SplitSeq(strings.SplitN(r.Description, ":", 2)[0], ", ") {
					if n, _ := strconv.Atoi(status); n >= 400 {
						require.Equal(t, n, statuses[code], "%s of %s", code, status)
					}
				}
			}
			takesBody := method == "PUT" || method == "POST" && (strings.HasSuffix(pattern, "/forwarders") || pattern == "/probe")
			require.Equal(t, takesBody, op.RequestBody != nil, pattern)
		}
	}
	require.ElementsMatch(t, want, got)
	require.Equal(t, []map[string][]string{{"token": {}}}, d.Security)
	require.Equal(t, "bearer", d.Components.SecuritySchemes["token"].Scheme)
	require.ElementsMatch(t, slices.Collect(maps.Keys(statuses)), d.Components.Schemas["Failure"].Properties["code"].Enum)
}

// unseen are answers that need a stream to end, or the host to fail, while the request
// is under way.
var unseen = map[string]bool{
	"POST /sources/{source}/refresh 409":    true,
	"POST /sources/{source}/forwarders 502": true,
}

// What the description has has been answered. The requests of the other tests are not
// needed for it.
func TestDescriptionHasNoOtherAnswer(t *testing.T) {
	c := newControlled(t)
	src := "/sources/" + c.p.Source().ID()
	add := src + "/forwarders"
	own := add + "/" + c.p.Source().Forwarders()[0].ID()
	const jsonCT, good = "application/json", `{"url":"rtmp://dest/live/x"}`
	for _, r := range [][2]string{
		{"GET", "/openapi.json"}, {"GET", "/sources"}, {"GET", src}, {"DELETE", src}, {"POST", src + "/refresh"}, {"POST", add},
		{"GET", own}, {"PUT", own}, {"DELETE", own}, {"POST", "/probe"},
	} {
		c.do(r[0], r[1], "", "", "")
	}
	bearer := "Bearer " + token
	for _, r := range [][4]string{
		{"GET", "/openapi.json"}, {"GET", "/sources"}, {"GET", src}, {"GET", own}, {"POST", src + "/refresh"},
		{"GET", "/sources/x"}, {"DELETE", "/sources/x"}, {"POST", "/sources/x/refresh"}, {"POST", "/sources/x/forwarders", jsonCT, good},
		{"GET", add + "/x"}, {"PUT", add + "/x", jsonCT, good}, {"DELETE", add + "/x"},
		{"POST", add, jsonCT, "{"}, {"PUT", own, jsonCT, "{"}, {"POST", add, "", good}, {"PUT", own, "", good},
		{"POST", add, jsonCT, strings.Repeat(" ", maxBody+1)}, {"PUT", own, jsonCT, strings.Repeat(" ", maxBody+1)},
		{"POST", add, jsonCT, `{"url":"rtmp://dest/live/` + canary + `"}`},
		{"POST", add, jsonCT, `{"url":"rtmp://down/live/x"}`},
		{"PUT", own, jsonCT, `{"url":"rtmp://down/live/x"}`}, // which is there
		{"PUT", own, jsonCT, `{"url":"rtmp://down/live/y"}`},
		{"POST", "/probe", jsonCT, "{"}, {"POST", "/probe", "", good}, {"POST", "/probe", jsonCT, strings.Repeat(" ", maxBody+1)},
		{"POST", "/probe", jsonCT, `{"url":"rtmp://dest/live/` + canary + `"}`}, // which is pushed to
	} {
		c.do(r[0], r[1], r[2], r[3], bearer)
	}
	for range probeBurst + 1 {
		c.do("POST", "/probe", jsonCT, `{"url":"rtmp://dest/live/probed"}`, bearer)
	}
	require.NoError(t, c.p.WriteTag(forward.TagVideo, 0, []byte{0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1f, 0xff}))
	replaced := make(chan struct{})
	go func() {
		defer close(replaced)
		c.do("PUT", own, jsonCT, `{"url":"rtmp://dest/live/replaced"}`, bearer)
	}()
	eventually(t, func() bool {
		writeVideo(c.p, 40, true)
		select {
		case <-replaced:
			return true
		default:
			return false
		}
	})
	c.do("DELETE", add+"/"+c.p.Source().Forwarders()[0].ID(), "", "", bearer)
	c.answer.set(nil, fmt.Errorf("no answer"))
	c.do("POST", src+"/refresh", "", "", bearer)
	c.everyAnswerOfTheTable()
	c.do("DELETE", src, "", "", bearer)
	for pattern, item := range spec().Paths {
		for method, op := range item.operations() {
			for status := range op.Responses {
				answer := method + " " + pattern + " " + status
				if _, ok := seen.Load(answer); !ok {
					require.True(t, unseen[answer], "%s has not been answered", answer)
				}
			}
		}
	}
}

// kinds are the types of JSON of Go's.
var kinds = map[reflect.Kind]string{
	reflect.String: "string", reflect.Int: "integer", reflect.Int64: "integer", reflect.Uint64: "integer",
	reflect.Bool: "boolean", reflect.Struct: "object", reflect.Slice: "array", reflect.Pointer: "object",
}

// The schemas have the fields that answers have, and the options of a destination.
func TestDescriptionHasEveryField(t *testing.T) {
	d := spec()
	types := map[string]reflect.Type{
		"Source": reflect.TypeFor[shownSource](), "Forwarder": reflect.TypeFor[shownForwarder](),
		"ForwarderError": reflect.TypeFor[shownError](), "Failure": reflect.TypeFor[failure](),
		"Probe": reflect.TypeFor[shownProbe](), "ProbeStep": reflect.TypeFor[shownStep](),
		"Entry": reflect.TypeFor[shownEntry](), "Push": reflect.TypeFor[shownPush](),
	}
	require.Len(t, d.Components.Schemas, len(types)+2)
	put := d.Components.Schemas["PutEntry"]
	require.ElementsMatch(t, []string{"stream", "state", "destination"}, slices.Collect(maps.Keys(put.Properties)))
	require.Equal(t, "#/components/schemas/Destination", put.Properties["destination"].Ref)
	require.Equal(t, []string{"stream", "destination"}, put.Required)
	for _, s := range []*schema{put, d.Components.Schemas["Entry"]} {
		require.Equal(t, []string{"off", "on", "held"}, s.Properties["state"].Enum)
	}
	for name, typ := range types {
		s := d.Components.Schemas[name]
		var fields, required []string
		for _, f := range reflect.VisibleFields(typ) {
			field, omit, _ := strings.Cut(f.Tag.Get("json"), ",")
			fields = append(fields, field)
			if omit == "" {
				required = append(required, field)
			}
			p := s.Properties[field]
			require.NotNil(t, p, "%s.%s", name, field)
			if f.Type == reflect.TypeFor[time.Time]() {
				require.Equal(t, "string date-time", p.Type+" "+p.Format, field)
				continue
			}
			require.Equal(t, kinds[f.Type.Kind()], d.schema(p).Type, field)
		}
		require.ElementsMatch(t, fields, slices.Collect(maps.Keys(s.Properties)), name)
		require.ElementsMatch(t, required, s.Required, name)
		require.False(t, *s.AdditionalProperties)
	}

	s := d.Components.Schemas["Destination"]
	require.Equal(t, []string{"url"}, s.Required)
	require.False(t, *s.AdditionalProperties)
	require.Len(t, s.Properties, len(option.All))
	for _, o := range option.All {
		p := s.Properties[o.Name]
		require.NotNil(t, p, o.Name)
		require.Equal(t, o.Secret, p.WriteOnly, o.Name)
		typ, highest, words := "string", 0, []string(nil)
		switch v := o.Value.(type) {
		case *option.Switch:
			typ = "boolean"
		case *option.Number:
			typ, highest = "integer", v.Max
		case *option.Milliseconds:
			typ, highest = "integer", v.Max
		case *option.Choice:
			words = v.Words
		}
		require.Equal(t, typ, p.Type, o.Name)
		require.Equal(t, words, p.Enum, o.Name)
		if highest > 0 {
			require.Equal(t, highest, *p.Maximum, o.Name)
		}
	}
}
