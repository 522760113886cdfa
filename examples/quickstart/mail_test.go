package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseMail(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		raw  string
		want mail
	}{
		{
			name: "plain",
			raw:  "From: a@b\nSubject: hi\n\nbody\n",
			want: mail{From: "a@b", Subject: "hi", Text: "body\r\n"},
		},
		{
			name: "encoded words, Japanese",
			raw:  "From: =?ISO-2022-JP?B?GyRCRURDZhsoQg==?= <t@example.jp>\nSubject: =?UTF-8?B?5qyh?=\n =?UTF-8?B?44Gu?=\n\n",
			want: mail{From: "田中 <t@example.jp>", Subject: "次の"},
		},
		{
			name: "alternatives and an attachment",
			raw: `Message-ID: <1@x>
To: a@b
Cc: c@d
Content-Type: multipart/mixed; boundary=m

--m
Content-Type: multipart/alternative; boundary=a

--a
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Gr=C3=BC=C3=9Fe
--a
Content-Type: text/html

<b>hi</b>
--a--
--m
Content-Type: application/pdf
Content-Disposition: attachment; filename*=UTF-8''%E6%AC%A1.pdf
Content-Transfer-Encoding: base64

AAECAw==
--m--
`,
			want: mail{
				To: "a@b", Cc: "c@d", MessageID: "<1@x>", Text: "Grüße", HTML: "<b>hi</b>",
				Attachments: []attachment{{Name: "次.pdf", Type: "application/pdf", Size: 4}},
			},
		},
		{
			name: "unknown charset is shown as it is",
			raw:  "Content-Type: text/plain; charset=nonsense\n\nbody",
			want: mail{Text: "body"},
		},
		{
			name: "no header at all",
			raw:  "",
			want: mail{},
		},
		{
			name: "multipart cut short",
			raw:  "Content-Type: multipart/mixed; boundary=m\n\n--m\nContent-Type: text/plain\n\nhello",
			want: mail{Text: "hello", Trouble: "multipart: NextPart: EOF"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			raw := []byte(strings.ReplaceAll(tt.raw, "\n", "\r\n"))
			tt.want.Raw = raw
			got := parseMail(raw)
			if diff := cmp.Diff(&tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
