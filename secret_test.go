package forward

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

const canary = "c4nary5ecret"

// everyPrint is v in every way that Go prints, logs and marshals values.
func everyPrint(t testing.TB, v any) string {
	t.Helper()
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
		fmt.Fprintf(&out, verb+" ", v)
		fmt.Fprintf(&out, verb+" ", []any{v})
	}
	fmt.Fprint(&out, v, &v)
	text, err := json.Marshal(map[string]any{"v": v})
	require.NoError(t, err)
	out.Write(text)
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v, "group", []any{v})
	return out.String()
}

func TestSecretIsNeverPrinted(t *testing.T) {
	holder := struct {
		Key Secret
		Ptr *Secret
		Map map[string]Secret
	}{Key: canary, Map: map[string]Secret{"k": canary}}
	for _, v := range []any{Secret(canary), holder, []Secret{canary}} {
		out := everyPrint(t, v)
		require.NotContains(t, out, canary)
		require.NotContains(t, out, fmt.Sprintf("%x", canary))
		require.Contains(t, out, "***")
	}
	require.Equal(t, canary, string(Secret(canary)))
}

func TestEmptySecretStaysEmpty(t *testing.T) {
	require.Equal(t, `||""`, fmt.Sprintf("%v|%s|", Secret(""), Secret(""))+string(must(json.Marshal(Secret("")))))
	require.NotContains(t, everyPrint(t, Secret("")), "***")
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
