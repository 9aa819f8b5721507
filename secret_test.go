package forward

import (
	"encoding"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/secretscan"
)

// canary is in every secret of the tests.
const canary = secretscan.Canary

func TestSecretIsNeverPrinted(t *testing.T) {
	holder := struct {
		Key Secret
		Ptr *Secret
		Map map[string]Secret
	}{Key: canary, Map: map[string]Secret{"k": canary}}
	for _, v := range []any{Secret(canary), holder, []Secret{canary}} {
		out := secretscan.Prints(v)
		require.NotContains(t, out, canary)
		require.NotContains(t, out, fmt.Sprintf("%x", canary))
		require.Contains(t, out, "***")
	}
	require.Equal(t, canary, string(Secret(canary)))
}

func TestEmptySecretStaysEmpty(t *testing.T) {
	require.Empty(t, fmt.Sprintf("%v%s%#v", Secret(""), Secret(""), Secret("")))
	require.Equal(t, `""`, string(must(json.Marshal(Secret("")))))
	require.NotContains(t, secretscan.Prints(Secret("")), "***")
}

// Printers other than fmt call these by name.
func TestSecretMethods(t *testing.T) {
	s, d := Secret(canary), Destination{URL: "rtmp://h/app/" + canary}
	for _, v := range []interface {
		fmt.GoStringer
		fmt.Stringer
		encoding.TextMarshaler
		slog.LogValuer
	}{s, d} {
		out := v.GoString() + v.String() + string(must(v.MarshalText())) + v.LogValue().String()
		require.NotContains(t, out, canary)
		require.Equal(t, 4, strings.Count(out, "***"))
	}
}

func TestSecretIsReadFromJSON(t *testing.T) {
	var s Secret
	require.NoError(t, json.Unmarshal([]byte(`"abc"`), &s))
	require.Equal(t, Secret("abc"), s)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
