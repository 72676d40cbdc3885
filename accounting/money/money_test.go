package money_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"airgate/accounting/money"
)

func TestParseUSD(t *testing.T) {
	for text, want := range map[string]money.NanoUSD{
		"0":                    0,
		"12":                   12 * money.USD,
		"0.05":                 money.USD / 20,
		"0.050":                money.USD / 20,
		"0.000000001":          1,
		"-3.5":                 -7 * money.USD / 2,
		"-0":                   0,
		"9223372036.854775807": math.MaxInt64,
	} {
		if got, err := money.ParseUSD(text); err != nil || got != want {
			t.Errorf("ParseUSD(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
}

func TestParseUSDRefuses(t *testing.T) {
	for text, want := range map[string]error{
		"":                      money.ErrSyntax,
		"-":                     money.ErrSyntax,
		".":                     money.ErrSyntax,
		".5":                    money.ErrSyntax,
		"5.":                    money.ErrSyntax,
		"+5":                    money.ErrSyntax,
		"--5":                   money.ErrSyntax,
		"1e3":                   money.ErrSyntax,
		"0x10":                  money.ErrSyntax,
		"007":                   money.ErrSyntax,
		"00":                    money.ErrSyntax,
		"1_000":                 money.ErrSyntax,
		"1,000":                 money.ErrSyntax,
		"1.2.3":                 money.ErrSyntax,
		" 1":                    money.ErrSyntax,
		"$1":                    money.ErrSyntax,
		"٣":                     money.ErrSyntax,
		"NaN":                   money.ErrSyntax,
		"0.0000000001":          money.ErrPrecision,
		"1.0000000000":          money.ErrPrecision,
		"9223372036.854775808":  money.ErrRange,
		"9223372037":            money.ErrRange,
		"99999999999999999999":  money.ErrRange,
		"18446744073.709551616": money.ErrRange, // 2⁶⁴ nano-USD
	} {
		got, err := money.ParseUSD(text)
		if got != 0 || !errors.Is(err, want) {
			t.Errorf("ParseUSD(%q) = %d, %v, want error %v", text, got, err, want)
		}
		if err != nil && text != "" && !strings.Contains(err.Error(), text) {
			t.Errorf("ParseUSD(%q) error %q does not show the text", text, err)
		}
	}
}

func TestParseRate(t *testing.T) {
	if got, err := money.ParseRate("0.0025"); err != nil || got != 2_500_000 {
		t.Errorf(`ParseRate("0.0025") = %d, %v, want 2500000`, got, err)
	}
	if _, err := money.ParseRate("-1"); !errors.Is(err, money.ErrNegative) {
		t.Errorf(`ParseRate("-1") error = %v, want %v`, err, money.ErrNegative)
	}
}

func TestShortestDecimal(t *testing.T) {
	for amount, want := range map[money.NanoUSD]string{
		0:                   "0",
		1:                   "0.000000001",
		50_000_000:          "0.05",
		12 * money.USD:      "12",
		-1_500_000_000:      "-1.5",
		1_000_000_010:       "1.00000001",
		math.MaxInt64:       "9223372036.854775807",
		math.MinInt64:       "-9223372036.854775808",
		money.NanoUSD(1e18): "1000000000",
	} {
		if got := amount.String(); got != want {
			t.Errorf("NanoUSD(%d).String() = %q, want %q", int64(amount), got, want)
		}
	}
}

func TestJSONIsAString(t *testing.T) {
	type row struct {
		Cost money.NanoUSD `json:"cost_usd"`
		Rate money.Rate    `json:"rate"`
	}
	in := row{Cost: 1_250_000, Rate: 15 * money.Rate(money.USD)}
	text, err := json.Marshal(in)
	if want := `{"cost_usd":"0.00125","rate":"15"}`; err != nil || string(text) != want {
		t.Fatalf("Marshal(%v) = %s, %v, want %s", in, text, err, want)
	}
	var out row
	if err := json.Unmarshal(text, &out); err != nil || out != in {
		t.Errorf("Unmarshal(%s) = %v, %v, want %v", text, out, err, in)
	}
	if err := json.Unmarshal([]byte(`{"cost_usd":"1e9"}`), &out); !errors.Is(err, money.ErrSyntax) {
		t.Errorf("Unmarshal of an exponent: error = %v, want %v", err, money.ErrSyntax)
	}
}

func TestDecimalRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := money.NanoUSD(rapid.Int64Range(-math.MaxInt64, math.MaxInt64).Draw(t, "amount"))
		text := want.String()
		if got, err := money.ParseUSD(text); err != nil || got != want {
			t.Fatalf("ParseUSD(%q) = %d, %v, want %d", text, got, err, want)
		}
		if strings.Contains(text, ".") && strings.HasSuffix(text, "0") {
			t.Fatalf("String() = %q ends with a zero", text)
		}
	})
}

func FuzzParseUSD(f *testing.F) {
	for _, seed := range []string{"0", "12", "0.05", "-3.5", "9223372036.854775807", "1e3", "007", "1.0000000000"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		amount, err := money.ParseUSD(text)
		if err != nil {
			return
		}
		shortest := amount.String()
		if again, err := money.ParseUSD(shortest); err != nil || again != amount {
			t.Errorf("ParseUSD(%q) = %d, but of its String %q: %d, %v", text, amount, shortest, again, err)
		}
		if len(shortest) > len(text) {
			t.Errorf("String() = %q is longer than %q", shortest, text)
		}
	})
}

func TestTextAllocatesNothing(t *testing.T) {
	var b [32]byte
	if n := testing.AllocsPerRun(100, func() {
		_, _ = money.NanoUSD(-1_234_567_891).AppendText(b[:0])
		_, _ = money.ParseUSD("1234.56789")
	}); n != 0 {
		t.Errorf("AppendText and ParseUSD allocate %v times, want 0", n)
	}
}
