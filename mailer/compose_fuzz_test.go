package mailer

import (
	"bytes"
	"maps"
	"mime"
	"net/mail"
	"strings"
	"testing"
	"time"
	"unicode"
)

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{
		"a@x.jp", "A <a@x.jp>", `"A, \"B\"" <a@x.jp> (c)`, "Acme, Inc. <a@x.jp>, b@x.jp", "foo.@docomo.ne.jp",
		`"foo."@docomo.ne.jp`, "用户@例え.jp", "山田, 太郎 <a@x.jp>", "=?ISO-2022-JP?B?GyRCOzNFRBsoQg==?= B <a@x.jp>",
		"=?UTF-8?Q?a=0Db?= <a@x.jp>", "a@x.jp (=?iso-8859-1?Q?=E4?= c)", `5" pipe <a@x.jp>, 6" hose <b@x.jp>`,
		`"victim@evil> ORCPT=.."@allowed.jp`, "=?UTF-8?B?5bGx55Q=?= =?UTF-8?B?sA==?= <a@x.jp>", "<@a,@b:c@x.jp>", "g: a@x.jp;",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := ParseAddressList(s)
		if a, err1 := ParseAddress(s); err1 == nil && (err != nil || len(list) != 1 || list[0] != a) {
			t.Fatalf("%q: one address %+v, but list %+v, %v", s, a, list, err)
		}
		for _, a := range list {
			checkAddress(t, a)
		}
		if err == nil {
			printed := make([]string, len(list))
			for i, a := range list {
				printed[i] = a.String()
			}
			again, err := ParseAddressList(strings.Join(printed, ", "))
			if err != nil || len(again) != len(list) {
				t.Fatalf("%q printed as %q: %+v, %v", s, printed, again, err)
			}
		}
	})
}

func checkAddress(t *testing.T, a Address) {
	t.Helper()
	if _, fault := a.fault(); fault != "" {
		t.Fatalf("parsed %+v, which %s", a, fault)
	}
	m := a.Mailbox()
	if len(m) > 254 || m == invalidMailbox && a.Domain != "invalid.invalid" {
		t.Fatalf("%+v: mailbox %q", a, m)
	}
	for _, r := range m {
		if r == '<' || r == '>' || unicode.IsSpace(r) || unicode.IsControl(r) {
			t.Fatalf("%+v: mailbox %q", a, m)
		}
	}
	if strings.ContainsAny(a.String(), "\r\n\x00") {
		t.Fatalf("%+v: %q", a, a)
	}
	again, err := ParseAddress(a.String())
	if err != nil || again != a {
		t.Fatalf("%+v printed as %q, read as %+v, %v", a, a, again, err)
	}
	if _, err := ParseAddress(m); err != nil {
		t.Fatalf("mailbox %q: %v", m, err)
	}
}

func FuzzCompose(f *testing.F) {
	f.Add("subject", "name", "value", "text", "file.txt", "x")
	f.Add("件名 — Bcc", "山田, 太郎", "日本 <l.x.jp>", "こんにちは\r本文\n", "請求書 2026年9月.pdf", "")
	f.Add("a\r\nBcc: b@y.jp", "a\r\nBcc: b@y.jp", "a\r\nBcc: b@y.jp", "a\r\n.\r\nMAIL FROM:<b@y.jp>\r\n", "a\r\nb", "\r\n.\r\n")
	f.Add(strings.Repeat("long ", 150), strings.Repeat("名", 300), strings.Repeat("x", 1200), strings.Repeat("x", 3000), strings.Repeat("名", 100)+".pdf", "From: a@x.jp\r\n\r\nhello\r\n")
	f.Add("0 0 0 0 0 0  "+strings.Repeat("|", 57), "", "0", "0", "", "0")
	f.Add("\t=?UTF-8?Q?a?=", "=?ISO-2022-JP?B?GyRCOzNFRBsoQg==?=", "=?UTF-8?Q?a?=", " \r\r\n\x00\x1b", `..\..\a".exe`, "\r")
	f.Fuzz(checkCompose)
}

func checkCompose(t *testing.T, subject, name, value, text, filename, data string) {
	m := &Message{
		From:        Address{Name: name, Local: "a", Domain: "x.jp"},
		To:          []Address{{Name: name, Local: "b", Domain: "x.jp"}, {Local: "c", Domain: "x.jp"}},
		Bcc:         []Address{{Local: "hidden", Domain: "x.jp"}},
		Subject:     subject,
		Text:        text,
		HTML:        text,
		Headers:     []HeaderField{{"X-Fuzz", value}},
		Date:        time.Unix(1e9, 0).UTC(),
		MessageID:   "<id@x.jp>",
		Attachments: []Attachment{{Filename: filename, Source: Bytes(data)}, {ContentType: "message/rfc822", Source: Bytes(data)}},
	}
	content, err := m.Compose()
	if err != nil {
		return
	}
	out := write(t, content)
	checkCanonical(t, out)

	// The standard library makes one space of those where a line was folded.
	header, body, _ := strings.Cut(string(out), "\r\n\r\n")
	header = strings.NewReplacer("\r\n ", " ", "\r\n\t", "\t").Replace(header)
	msg, err := mail.ReadMessage(strings.NewReader(header + "\r\n\r\n" + body))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := []string{"Date", "From", "To", "Message-Id", "Subject", "X-Fuzz", "Mime-Version", "Content-Type"}
	for _, k := range want {
		if len(msg.Header[k]) != 1 {
			t.Fatalf("%d fields %s\n%s", len(msg.Header[k]), k, out)
		}
	}
	if len(msg.Header) != len(want) {
		t.Fatalf("injected fields: %v", msg.Header)
	}
	if got, err := new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject")); err != nil || got != trimWSP(subject) {
		t.Fatalf("subject %q read as %q, %v", subject, got, err)
	}
	to, err := msg.Header.AddressList("To")
	if err != nil || len(to) != 2 || to[0].Address != "b@x.jp" || to[1].Address != "c@x.jp" {
		t.Fatalf("recipients %v, %v", to, err)
	}
	_, leaves := readPart(t, msg.Header, msg.Body)
	want2 := map[string]string{"attachment.eml": data}
	if !isClean(data) {
		want2 = map[string]string{"attachment.bin": data}
	}
	name1 := cleanFilename(filename)
	if _, taken := want2[name1]; taken || name1 == "" || strings.HasPrefix(name1, "text/") {
		return // the parts are told apart by their names
	}
	want2[name1] = data
	if text != "" {
		want2["text/plain"], want2["text/html"] = endLines(text), endLines(text)
	}
	if !maps.Equal(leaves, want2) {
		t.Fatalf("parts %q, want %q\n%s", leaves, want2, out)
	}
}

func isClean(s string) bool {
	ok, err := isCanonical(Bytes(s))
	return ok && err == nil
}

// write writes c twice and checks what every Content promises.
func write(t testing.TB, c Content) []byte {
	t.Helper()
	var first, second bytes.Buffer
	n, err := c.WriteTo(&first)
	if err != nil {
		t.Fatal(err)
	}
	if n != c.Size() || n != int64(first.Len()) {
		t.Fatalf("size %d, WriteTo says %d, wrote %d", c.Size(), n, first.Len())
	}
	if _, err := c.WriteTo(&second); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Fatalf("a second writing differs: %v", err)
	}
	return first.Bytes()
}

func checkCanonical(t testing.TB, b []byte) {
	t.Helper()
	if !bytes.HasSuffix(b, []byte("\r\n")) {
		t.Fatalf("does not end in CRLF: %q", b[max(0, len(b)-20):])
	}
	for _, line := range strings.Split(strings.TrimSuffix(string(b), "\r\n"), "\r\n") {
		if strings.ContainsAny(line, "\r\n\x00") || !isASCII(line) || len(line) > 998 {
			t.Fatalf("line of %d octets: %q", len(line), line)
		}
	}
	header, _, _ := strings.Cut(string(b), "\r\n\r\n")
	for _, line := range strings.Split(header, "\r\n") {
		if trimWSP(line) == "" {
			t.Fatalf("a header line is blank:\n%s", header)
		}
	}
}
