package endpoint

import (
	"reflect"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// Brackets finds what the regular expression finds.
func FuzzBrackets(f *testing.F) {
	for _, s := range []string{"", "[app]", "[[app]]", "[a[stream]b", "[APP][x", "[]", "a[vhost", "[é][a]"} {
		f.Add(s)
	}
	words := regexp.MustCompile(`\[[a-z]+\]`)
	value := func(name string) string { return "<" + name[1:len(name)-1] + ">" }
	f.Fuzz(func(t *testing.T, s string) {
		require.Equal(t, words.ReplaceAllStringFunc(s, value), Brackets(s, value))
	})
}

func TestTemplate(t *testing.T) {
	req := Request{Vhost: "v&x", App: "live", Stream: "[app]", Param: "?vhost=other&t=1"}
	for _, c := range []struct {
		spec     Spec
		url, key string
	}{
		{Spec{URL: "h"}, "rtmp://h/live?vhost=v%26x", "[app]?t=1"},
		{Spec{URL: "rtmp://h/app"}, "rtmp://h/app", "[app]"},
		{Spec{URL: "rtmp://h/app/[stream][param]"}, "rtmp://h/app", "[app]?vhost=other&t=1"},
		{Spec{URL: "rtmp://h/[vhost]/[app]-$1"}, "rtmp://h/v&x", "live-one"},
		{Spec{URL: "rtmp://h/[app]", StreamKey: "[stream]"}, "rtmp://h/live", ""},
		{Spec{URL: "x.live-video.net", StreamKey: "k"}, "rtmps://x.live-video.net/app", ""},
	} {
		words := regexp.MustCompile(`\[[a-z]+\]|\$1`)
		var replace Replace = words.ReplaceAllStringFunc
		tmpl, err := ParseTemplate(c.spec, &replace, append(Names, "$1")...)
		require.NoError(t, err)
		again, err := ParseTemplate(c.spec, &replace, append(Names, "$1")...)
		require.NoError(t, err)
		require.True(t, reflect.DeepEqual(tmpl, again), "a Reload finds it unchanged")
		url, key := tmpl.Expand(req, map[string]string{"$1": "one"})
		require.Equal(t, c.url, url)
		require.Equal(t, c.key, key)
	}
	_, err := ParseTemplate(Spec{URL: "rtmp://h/[ap]/k"}, &Brackets, Names...)
	require.EqualError(t, err, "rtmp://h/[ap]/***: unknown placeholder: expected one of [vhost] [app] [stream] [param]")
	_, err = ParseTemplate(Spec{URL: "h/app"}, &Brackets, Names...)
	require.ErrorContains(t, err, "neither a host nor a URL")
}
